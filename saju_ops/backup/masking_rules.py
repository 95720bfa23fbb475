"""What is masked in `masked_database_dump`: every rule there is, in this one place.

A rule names a column and how its values become false ones (see `masking.py`):

identifier  a token; the same value gives the same token wherever it stands, so foreign keys still join
birth       a false date and time; the same birth date gives the same false one wherever it stands
text        a text that says nothing
json        the same structure, every text and number in it false
phone       a number that begins with 000, which nobody has
number      another number
category    a code instead of one of few values
hash        other hexadecimal digits
null        nothing
keep        left as it is, because it says nothing about a person; the comment says why

A column that no rule names is copied as it is, unless its name or its values look personal or it may hold any text:
then no dump is written, and the check names the column. Add a rule for it here.
"""

from __future__ import annotations

import re
from typing import Literal

Mask = Literal["identifier", "birth", "text", "json", "phone", "number", "category", "hash", "null", "keep"]

RULES: dict[str, dict[str, Mask]] = {
    "users": {
        "user_id": "identifier",
        "preferences": "json",
        # A time of the service.
        "last_login": "keep",
    },
    "user_sessions": {
        "session_id": "identifier",
        "user_id": "identifier",
        "birth_datetime": "birth",
        "birth_datetime_encrypted": "text",
        "birth_location": "json",
    },
    "saju_calculations": {
        "session_id": "identifier",
        "birth_datetime": "birth",
        # The four pillars are the birth date in other words; so are the lunar date, the season and the solar term.
        "year_ganji": "category",
        "month_ganji": "category",
        "day_ganji": "category",
        "time_ganji": "category",
        "lunar_year": "null",
        "lunar_month": "null",
        "lunar_day": "null",
        "season": "category",
        "jieqi": "category",
    },
    "saju_analyses": {
        "day_gan": "category",
        "day_zhi": "category",
        "shipsung_data": "json",
        "sinsal_list": "json",
        "yongshin": "category",
        "gishin": "category",
    },
    "conversation_logs": {
        "session_id": "identifier",
        "content": "text",
        "tool_calls": "json",
        "tool_call_id": "identifier",
        # The name of a language model; the message's place in the talk.
        "model_name": "keep",
        "message_order": "keep",
    },
    # Names of measurements.
    "system_metrics": {"session_id": "identifier", "metric_name": "keep"},
    # SQL of this project.
    "schema_migrations": {"rollback_sql": "keep", "description": "keep"},
    "jobs": {"phone": "phone"},
    "payments": {
        "order_id": "identifier",
        "amount": "number",
        "method": "category",
    },
    # The keys name files, and uploaded files are called what their owners called them.
    "job_files": {
        "s3_key": "identifier",
        # image/png and the like.
        "content_type": "keep",
    },
    "sms_logs": {"phone": "phone", "message": "text"},
    "phone_verification_attempts": {"phone": "phone", "code_hash": "hash"},
    "payment_failures": {"error_message": "text"},
    "reports": {"title": "text", "content": "text"},
    "analysis_jobs": {"emp_id": "identifier", "folder_path": "identifier"},
    "analysis_results": {
        "file_id": "identifier",
        "stt_text": "text",
        "improper_detection_results": "json",
    },
}

# Names that a column about a person has, in English and Korean. Whole words between underscores, or their beginning.
PERSONAL_NAME = re.compile(
    r"(^|_)(name|names|firstname|lastname|fullname|nickname|username|login|phone|mobile|tel|telephone|cell|fax|email|mail"
    r"|e_mail|birth\w*|born|dob|addr|address|street|city|zip|zipcode|postal|postcode|lat|latitude|lng|lon|longitude"
    r"|location|ssn|rrn|resident\w*|passport|license|licence|card|cardno|account|iban|bank|payer|buyer|receipt|ip|ipaddr"
    r"|user_agent|gender|sex|age|password|passwd|pwd|secret|token|otp|pin|signature|photo|face|voice|message|content"
    r"|comment|memo|note|notes|body|question|answer|prompt|customer|order_id|payment_key|user_id|member_id|emp_id"
    r"|encrypted)(_|$)|이름|성명|전화|휴대|연락처|생년|생일|주소|메일|주민|계좌|카드|비밀번호|메모|내용",
    re.IGNORECASE,
)

# Values that only people have. Tried on every value of every column of text that no rule names.
PERSONAL_VALUES: dict[str, re.Pattern[str]] = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*[a-z]{2,}", re.IGNORECASE),
    "a phone number": re.compile(r"(?<!\d)(?:\+?82[- .]?|0)1[016789][- .]?\d{3,4}[- .]?\d{4}(?!\d)"),
    "a resident registration number": re.compile(
        r"(?<!\d)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])-[1-8]\d{6}(?!\d)"
    ),
    "a card number": re.compile(r"(?<!\d)(?:\d{4}[- ]){3}\d{4}(?!\d)"),
    "a birth date in words": re.compile(r"\d{4}년\s*\d{1,2}월\s*\d{1,2}일"),
}
# Types that may hold anything, so that without a rule nobody has said that it is not personal.
ANYTHING = re.compile(r"text|json|blob|bytea|clob|xml|hstore|binary|vector|geometry|^$", re.IGNORECASE)
