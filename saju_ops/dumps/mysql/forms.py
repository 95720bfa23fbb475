"""The forms of the statements that mysqldump (5.7 to 9.7), mariadb-dump (10.3 to 11.8) and this program write."""

from __future__ import annotations

import re

from saju_ops.dumps.mysql.words import NAME, TEXT

_NUMBER = rb"-?\d++(?:\.\d*+)?+(?:[eE][-+]?\d++)?+"
_VALUE = rb"(?:" + TEXT + rb"|0x[0-9A-Fa-f]++|" + _NUMBER + rb"|NULL|_binary ?" + TEXT + rb"|[bx]'[0-9A-Fa-f]*+')"
_ROW = rb"\(" + _VALUE + rb"(?:, ?" + _VALUE + rb")*+\)"
_COLUMNS = rb"\((?:" + NAME + rb"|\w+)(?:, ?(?:" + NAME + rb"|\w+))*+\)"
INSERT = re.compile(
    rb"INSERT (?:IGNORE )?INTO (" + NAME + rb") (?:" + _COLUMNS + rb" )?VALUES\s" + _ROW + rb"(?:,\s?" + _ROW + rb")*+",
    re.DOTALL,
)
_SAME = rb"(?:" + NAME + rb") = (?:" + _VALUE + rb"|" + NAME + rb")"
UPDATE = re.compile(
    rb"UPDATE (" + NAME + rb") SET " + _SAME + rb"(?:, " + _SAME + rb")*+"
    rb" WHERE " + _SAME + rb"(?: AND " + _SAME + rb")*+",
    re.DOTALL,
)
_TARGET = rb"@\w+|(?:@@)?(?:SESSION\.)?\w+"
_GIVEN = rb"@\w+|@@(?:SESSION\.)?\w+|'[\w,+:/. -]*'|[-+]?\d+|\w+"
_ASSIGNMENT = rb"(" + _TARGET + rb")\s*=\s*(" + _GIVEN + rb")"
ASSIGNMENT = re.compile(_ASSIGNMENT, re.IGNORECASE)
SET = re.compile(rb"SET (?:SESSION )?((?:" + _ASSIGNMENT + rb")(?:,\s*" + _ASSIGNMENT + rb")*)", re.IGNORECASE)
VARIABLES = {
    b"character_set_client", b"character_set_results", b"collation_connection", b"time_zone", b"unique_checks",
    b"foreign_key_checks", b"sql_mode", b"sql_notes", b"note_verbosity", b"system_versioning_insert_history",
    b"autocommit",
}  # fmt: skip
# Character sets of a client in which a byte below 128 is always the ASCII character.
PLAIN_CHARSETS = {
    b"utf8mb4", b"utf8mb3", b"utf8", b"binary", b"ascii", b"latin1", b"latin2", b"latin5", b"latin7", b"greek",
    b"hebrew", b"koi8r", b"koi8u", b"tis620", b"armscii8", b"geostd8", b"cp850", b"cp852", b"cp866", b"cp1250",
    b"cp1251", b"cp1256", b"cp1257", b"hp8", b"keybcs2", b"macce", b"macroman", b"dec8", b"euckr", b"gb2312",
    b"ujis", b"eucjpms",
}  # fmt: skip
# Modes in which \ or ` may be the second half of a character: under them only pure ASCII is read.
MIXED_CHARSETS = {b"gbk", b"gb18030", b"big5", b"sjis", b"cp932"}
ANSI_MODES = {b"ANSI_QUOTES", b"ANSI", b"ORACLE", b"MSSQL", b"DB2", b"MAXDB", b"POSTGRESQL"}
OTHER_MODES = ANSI_MODES | {b"NO_BACKSLASH_ESCAPES"}
ENGINES = {
    b"INNODB", b"MYISAM", b"MEMORY", b"HEAP", b"ARIA", b"ARCHIVE", b"CSV", b"BLACKHOLE", b"MRG_MYISAM", b"MERGE",
    b"ROCKSDB", b"TOKUDB", b"COLUMNSTORE", b"NDBCLUSTER", b"NDB", b"MROONGA",
}  # fmt: skip
# The options after a table's columns; after an =, any value is allowed there.
OPTIONS = {
    b"ENGINE", b"AUTO_INCREMENT", b"DEFAULT", b"CHARSET", b"CHARACTER", b"SET", b"COLLATE", b"COMMENT", b"ROW_FORMAT",
    b"KEY_BLOCK_SIZE", b"MAX_ROWS", b"MIN_ROWS", b"AVG_ROW_LENGTH", b"CHECKSUM", b"PAGE_CHECKSUM", b"DELAY_KEY_WRITE",
    b"PACK_KEYS", b"STATS_PERSISTENT", b"STATS_AUTO_RECALC", b"STATS_SAMPLE_PAGES", b"INSERT_METHOD", b"UNION",
    b"COMPRESSION", b"ENCRYPTION", b"TRANSACTIONAL", b"WITH", b"SYSTEM", b"VERSIONING", b"SEQUENCE", b"AUTOEXTEND_SIZE",
    b"ENGINE_ATTRIBUTE", b"SECONDARY_ENGINE", b"SECONDARY_ENGINE_ATTRIBUTE", b"TABLESPACE", b"STORAGE", b"DISK",
    b"PARTITION", b"PARTITIONS", b"SUBPARTITION", b"SUBPARTITIONS", b"BY", b"LINEAR", b"HASH", b"KEY", b"RANGE",
    b"LIST", b"COLUMNS", b"ALGORITHM", b"SYSTEM_TIME", b"INTERVAL", b"STARTS", b"TIMESTAMP", b"AUTO", b"LIMIT",
    b"SECOND", b"MINUTE", b"HOUR", b"DAY", b"WEEK", b"MONTH", b"QUARTER", b"YEAR", b"PAGE_COMPRESSED",
    b"PAGE_COMPRESSION_LEVEL", b"ENCRYPTED", b"ENCRYPTION_KEY_ID",
}  # fmt: skip
# In no table's definition that a dump program writes, or able to do more than to define.
NEVER_IN_TABLES = re.compile(
    rb"SELECT|DIRECTORY|CONNECTION|LOAD_FILE|SLEEP|BENCHMARK|GET_LOCK|MASTER_POS_WAIT|SYS_\w+|INTO|OUTFILE|DUMPFILE|@.*"
)
_USER = rb"(?:" + NAME + rb"|\"[^\"]*\"|'[^']*'|[\w.%-]+)"
DEFINER = rb"DEFINER\s*=\s*(" + _USER + rb"(?:\s*@\s*" + _USER + rb")?)"
WRAPPED = re.compile(
    rb"/\*!\d{5,6} CREATE ?\*/\s+(?:/\*!\d{5,6} (" + DEFINER + rb") ?\*/\s+)?/\*!\d{5,6} ((?:TRIGGER|EVENT|FUNCTION"
    rb"|PROCEDURE)\s.*)\*/",
    re.DOTALL,
)
BARE = re.compile(
    rb"CREATE (?:(" + DEFINER + rb")\s+)?((?:AGGREGATE )?(?:FUNCTION|PROCEDURE|PACKAGE|LIBRARY)\s.*)", re.DOTALL
)
VIEW = re.compile(
    rb"CREATE\s+ALGORITHM=\w+\s+(?:(" + DEFINER + rb")\s+)?(SQL SECURITY (?:DEFINER|INVOKER)\s+)?VIEW (" + NAME + rb")"
    rb" (?:(?:" + _COLUMNS + rb") )?AS (.+)",
    re.DOTALL,
)
_AS = rb"\s+(?:1|NULL) AS " + NAME
PLACEHOLDER = re.compile(rb"CREATE VIEW (" + NAME + rb") AS SELECT" + _AS + rb"(?:," + _AS + rb")*+")
EVENT = re.compile(
    rb"EVENT\s+(" + NAME + rb"|\"[^\"]+\"|\w+)\s+ON SCHEDULE (?:AT '[\d :.-]+'|EVERY (?:\d+|'[\d :.-]+') \w+"
    rb"(?: STARTS '[\d :.-]+')?(?: ENDS '[\d :.-]+')?)"
    rb" ON COMPLETION (?:NOT )?PRESERVE (ENABLE|DISABLE ON \w+|DISABLE)\s"
)
DROP = re.compile(
    rb"DROP (TABLE|VIEW|PROCEDURE|FUNCTION|EVENT|TRIGGER|SEQUENCE|PACKAGE|PACKAGE BODY|LIBRARY)"
    rb" IF EXISTS (" + NAME + rb")"
)
ALTER_DATABASE = re.compile(rb"ALTER DATABASE (" + NAME + rb")( CHARACTER SET \w+ COLLATE \w+)")
SEQUENCE = re.compile(rb"CREATE SEQUENCE (" + NAME + rb") [\w -]*ENGINE=(\w+)")
# Everything else, literally. The first group, where there is one, is a table.
FIXED = [
    re.compile(form)
    for form in (
        rb"SET NAMES (?:utf8mb4|utf8mb3|utf8|binary)",
        rb"LOCK TABLES (" + NAME + rb") WRITE",
        rb"UNLOCK TABLES",
        rb"START TRANSACTION",
        rb"COMMIT",
        rb"ALTER TABLE (" + NAME + rb") (?:DISABLE|ENABLE) KEYS",
        rb"ANALYZE TABLE (" + NAME + rb") UPDATE HISTOGRAM ON " + NAME + rb" WITH \d+ BUCKETS(?: AUTO UPDATE)?",
    )
]
SETVAL = re.compile(rb"(?:DO|SELECT) SETVAL\((" + NAME + rb"), -?\d+, \d+(?:, \d+)?\)")
SANDBOX = b"/*M!999999\\- enable the sandbox mode */"
