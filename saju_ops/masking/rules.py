"""The rules of `masked_database_dump`, all in this one place.

A rule names a column and how its values become false ones (see `masker.py`):

identifier  a token; the same value gives the same token everywhere, so foreign keys still join
birth       a false date and time; the same birth date gives the same false one everywhere
text        a text that says nothing
json        the same structure, every text and number in it false
phone       a number that begins with 000, which nobody has
number      another number
category    a code instead of one of few values
hash        other hexadecimal digits
null        nothing
keep        left as it is, because it says nothing about a person; the comment says why. It is searched all the same: a
            person's birth, telephone number or identifier in it stops the dump
public      left as it is and not searched: only for values that no user and no program writes about a person, such as
            a calendar of all days

A column that no rule names is copied as it is if it holds numbers, flags, times of the service or a few different
values, and nothing in it looks personal or is true of a person. Otherwise no dump is written, and the check names the
column. Add a rule for it here.
"""

from __future__ import annotations

import re
from typing import Literal

Mask = Literal["identifier", "birth", "text", "json", "phone", "number", "category", "hash", "null", "keep", "public"]

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
    "schema_migrations": {"version": "keep", "rollback_sql": "keep", "description": "keep"},
    # A person who knows a job's id can ask for its report.
    "jobs": {"id": "identifier", "phone": "phone"},
    "payments": {
        "job_id": "identifier",
        "order_id": "identifier",
        "amount": "number",
        "method": "category",
    },
    # The keys name files, and uploaded files are called what their owners called them.
    "job_files": {
        "job_id": "identifier",
        "s3_key": "identifier",
        # image/png and the like.
        "content_type": "keep",
    },
    "sms_logs": {"job_id": "identifier", "phone": "phone", "message": "text"},
    "phone_verification_attempts": {"job_id": "identifier", "phone": "phone", "code_hash": "hash"},
    "payment_failures": {"job_id": "identifier", "error_message": "text"},
    "reports": {"job_id": "identifier", "title": "text", "content": "text"},
    # The documents of the vector store, which are the service's own.
    "report_knowledge": {"knowledge_id": "keep"},
    "analysis_jobs": {"job_id": "identifier", "emp_id": "identifier", "folder_path": "identifier"},
    "analysis_results": {
        "job_id": "identifier",
        "file_id": "identifier",
        "stt_text": "text",
        "improper_detection_results": "json",
    },
}

# Names that a column about a person has, in English and Korean. Whole words between underscores (`phoneNumber2` is read
# as `phone_number`), or their beginning or end.
PERSONAL_NAME = re.compile(
    r"(^|_)(\w*name|names|login|\w*phone\w*|mobile\w*|tel|telno|cell|hp|hpno|handp\w*|fax|contact\w*|\w*email\w*|mail"
    r"|e_mail|birth\w*|born|dob|\w*addr\w*|street|city|zip|zipcode|postal|postcode|lat|latitude|lng|lon|longitude"
    r"|location|ssn|rrn|jumin\w*|resident\w*|passport\w*|license|licence|card\w*|account\w*|iban|bank\w*|payer|buyer"
    r"|recipient|receiver|sender|applicant|guardian|receipt|ip|ipaddr\w*|user_agent|gender|sex|age|password|passwd|pwd"
    r"|secret|token|otp|pin|signature|photo|face|voice|message|content|comment|memo|note|notes|body|question|answer"
    r"|prompt|\w*customer\w*|kakao\w*|nick|order_id|payment_key|(?:user|member|emp|cust)_?(?:id|no)|encrypted)(_|$)"
    r"|이름|성명|성함|명$|전화|휴대|핸드폰|연락처|생년|생일|출생|주소|거주지|메일|주민|여권|면허|계좌|예금주|카드|비밀번호|메모|내용|문의",
    re.IGNORECASE,
)

# Values that only people have. Tried on every value of every column of text that no rule names, in every spelling that
# `masking_forms.readings` knows.
_GAP = r"[\s._/()\-–—·,:|]{0,3}"
PERSONAL_VALUES: dict[str, re.Pattern[str]] = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*[a-z]{2,}", re.IGNORECASE),
    "a phone number": re.compile(
        rf"(?<!\d)(?:(?:\+|00)?82{_GAP}(?:\(?0\)?)?|0){_GAP}1{_GAP}[016789]{_GAP}\d{{3,4}}{_GAP}\d{{4}}(?!\d)"
    ),
    "a telephone number": re.compile(r"(?<![\d-])0(?:2|[3-6]\d|70)[-.) ]{1,2}\d{3,4}[-. ]\d{4}(?![\d-])"),
    "a resident registration number": re.compile(
        r"(?<!\d)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\s?[-–_]\s?[1-8](?:\d{6}|[*x]{6})(?!\d)"
    ),
    "a card number": re.compile(r"(?<!\d)(?:\d{4}[- ]){3}\d{4}(?!\d)"),
    "a birth date in words": re.compile(
        r"\d{4}년\s*\d{1,2}월\s*\d{1,2}일|(?<!\d)\d{2,4}\s*년\s*(?:\d{1,2}\s*월\s*)?(?:\d{1,2}\s*일\s*)?생(?!산|성)"
    ),
}
# Types that may hold anything, so that without a rule nobody has said that it is not personal.
ANYTHING = re.compile(r"text|json|blob|bytea|clob|xml|hstore|binary|vector|geometry|^$", re.IGNORECASE)
# Texts in the definitions of tables, views, triggers and routines that look personal and are nobody's, such as an
# author's address.
HARMLESS_TEXTS: tuple[str, ...] = ()
