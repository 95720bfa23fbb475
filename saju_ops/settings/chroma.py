"""The vector store: where it is, and how much memory the proof of a snapshot may take."""

from typing import ClassVar

from saju_ops.bounds import Port, ProofMegabytes
from saju_ops.chroma.limits import PROOF_MEMORY_MB
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting
from saju_ops.settings.values import FilePath, ServerName, Token


class Chroma(Feature):
    title: ClassVar[str] = "Chroma"
    page: ClassVar[str] = "chroma.md"

    chroma_db_path: FilePath = setting(
        "CHROMA_DB_PATH",
        default="./chroma_db",
        holds="a folder",
        about="The folder that the chatbot gives to Chroma. A snapshot locks it, so it must be writable",
    )
    chroma_host: ServerName | None = setting(
        "CHROMA_HOST",
        default=None,
        holds="a Chroma server's name or address, without http:// and port",
        about="For a server instead of a folder",
        empty="the folder CHROMA_DB_PATH",
    )
    chroma_port: Port = setting(
        "CHROMA_PORT", default=8000, holds="a port {allowed}", about="The port of the server CHROMA_HOST"
    )
    chroma_ssl: bool = setting(
        "CHROMA_SSL",
        default=False,
        holds="true or false; true: the server CHROMA_HOST is reached by TLS (https)",
        about="For a server behind TLS",
    )
    chroma_auth_token: Token | None = setting(
        "CHROMA_AUTH_TOKEN",
        default=None,
        holds="the token that the server CHROMA_HOST asks for, of visible ASCII characters without blanks; it is sent"
        " as `Authorization: Bearer` and `X-Chroma-Token`",
        about="For a server that asks for a token",
    )
    chroma_proof_memory_mb: ProofMegabytes = setting(
        "CHROMA_PROOF_MEMORY_MB",
        default=PROOF_MEMORY_MB,
        holds="a whole number of MB {allowed} that the process may take in which Chroma opens a snapshot; a collection"
        " whose index needs more is opened without it, and its index searched in its files",
        about="Memory for the proof of a snapshot",
    )
