"""Whatever an op, an asset, a check or a sensor raises, Dagster's history holds no secret of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

import saju_ops
from saju_ops.defs.run_errors import without_secrets

SECRET = "ssSecret9"
ADDRESS = f"mysql+pymysql://saju:p@{SECRET}@host/db"
SLACK = "xoxb-1234-of-the-settings"
CALLED_BY_DAGSTER = {"op", "asset", "multi_asset", "asset_check", "multi_asset_check", "sensor", "schedule"}


class Stubborn(Exception):
    """Its text is made anew each time."""

    def __str__(self) -> str:
        return f"no answer of {ADDRESS}"


def raising() -> None:
    try:
        raise KeyError(ADDRESS)
    except KeyError as error:
        raise RuntimeError(f"{SLACK} was not taken") from error


def stubborn() -> None:
    raise Stubborn


def failing() -> None:
    raise dg.Failure(f"{ADDRESS}, {SLACK}")


def history(job: dg.JobDefinition) -> str:
    with dg.instance_for_test() as instance:
        run = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not run.success
        return "\n".join(str(entry) for entry in instance.all_logs(run.run_id))


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "said"),
    [(raising, "RuntimeError: *** was not taken"), (stubborn, "no answer of mysql+pymysql://saju:***@host/db"),
     (failing, "mysql+pymysql://saju:***@host/db, ***")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["function", "generator"])
def test_an_error_that_nobody_foresaw_leaves_no_secret_in_the_history(
    body: object, said: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", SLACK)

    @dg.op(name="odd")
    @without_secrets
    def calling(context: dg.OpExecutionContext) -> None:
        body()  # type: ignore[operator]

    @dg.op(name="odd")
    @without_secrets
    def yielding(context: dg.OpExecutionContext) -> Iterator[dg.Output[int]]:
        body()  # type: ignore[operator]
        yield dg.Output(1)

    @dg.job
    def job() -> None:
        (calling if kind == "function" else yielding)()

    kept = history(job)
    assert said in kept
    assert SECRET not in kept
    assert SLACK not in kept


def test_what_the_op_yields_and_takes_is_as_before() -> None:
    class Config(dg.Config):
        rows: int = 3

    @dg.op
    @without_secrets
    def counting(context: dg.OpExecutionContext, config: Config) -> Iterator[dg.Output[int]]:
        yield dg.Output(config.rows, metadata={"rows": config.rows})

    @dg.job
    def job() -> None:
        counting()

    run = job.execute_in_process(run_config={"ops": {"counting": {"config": {"rows": 5}}}})
    assert run.output_for_node("counting") == 5


@pytest.mark.long
def test_everything_that_dagster_calls_hides_secrets() -> None:
    called = {}
    for file in Path(saju_ops.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                names = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
                if any(n.startswith("dg.") and n.removeprefix("dg.") in CALLED_BY_DAGSTER for n in names):
                    called[f"{file.name}: {node.name}"] = names[-1]
    assert len(called) > 25
    assert {name for name, innermost in called.items() if innermost != "without_secrets"} == set()
