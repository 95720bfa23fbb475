"""The Korean phrases of the demo service, and how they combine into messages.

Every text is a pure function of the generator passed in and the arguments. A user's message has some 10 to 60
characters, an assistant's 100 to 400. They contain what logs contain: emoji, line breaks, commas, quotation marks of
both kinds, backslashes. They don't predict anybody's fate, and no text is a real person's.
"""

import json
import re
from random import Random

STEMS = "갑을병정무기경신임계"
BRANCHES = "자축인묘진사오미신유술해"
STEM_NAMES = ("갑목", "을목", "병화", "정화", "무토", "기토", "경금", "신금", "임수", "계수")
ELEMENTS = ("목", "화", "토", "금", "수")
ELEMENT_NAMES = {"목": "목(木)", "화": "화(火)", "토": "토(土)", "금": "금(金)", "수": "수(水)"}
TEN_GODS = ("비견", "겁재", "식신", "상관", "편재", "정재", "편관", "정관", "편인", "정인")
SINSAL = ("도화살", "역마살", "화개살", "천을귀인", "문창귀인", "양인살", "백호살", "홍염살", "월덕귀인")
CITIES = (
    ("서울", 37.5665, 126.9780),
    ("부산", 35.1796, 129.0756),
    ("대구", 35.8714, 128.6014),
    ("인천", 37.4563, 126.7052),
    ("광주", 35.1595, 126.8526),
    ("대전", 36.3504, 127.3845),
    ("울산", 35.5384, 129.3114),
    ("수원", 37.2636, 127.0286),
    ("전주", 35.8242, 127.1480),
    ("춘천", 37.8813, 127.7300),
    ("제주", 33.4996, 126.5312),
    ("강릉", 37.7519, 128.8761),
)
TOPICS = ("재물", "연애", "직장", "건강", "학업", "결혼", "이사", "사업", "가족", "인간관계")

_WHEN = (
    "올해",
    "내년",
    "이번 달",
    "다음 달",
    "올 하반기",
    "이번 주",
    "30대 후반에",
    "설 지나고",
    "여름에",
    "연말에",
    "요즘",
    "앞으로 3년",
    "추석 전에",
    "봄쯤",
)
_ASKED = {
    "재물": (
        "재물운이 어떤가요",
        "주식 계속 들고 있어도 될까요",
        "돈이 자꾸 새는데 왜 그럴까요",
        "청약 넣어도 괜찮을까요",
    ),
    "연애": (
        "새로운 인연이 들어올까요",
        "헤어진 사람과 다시 만날 수 있을까요",
        "짝사랑이 이루어질까요",
        "궁합 좀 봐주세요",
    ),
    "직장": (
        "이직해도 될까요",
        "승진 가능성이 있을까요",
        "상사랑 너무 안 맞아요",
        "합격 소식이 들릴까요",
        "퇴사하고 싶어요",
    ),
    "건강": ("건강에서 조심할 게 있나요", "수술 날짜를 언제로 잡을까요", "잠을 잘 못 자는데 사주 때문일까요"),
    "학업": (
        "시험에 붙을 수 있을까요",
        "대학원에 가는 게 맞을까요",
        "유학 운이 있나요",
        "수능 잘 볼 수 있을까요",
    ),
    "결혼": (
        "결혼은 언제쯤 할까요",
        "택일 좀 부탁드려요",
        "결혼하면 잘 살까요",
        "부모님이 반대하시는데 어쩌죠",
    ),
    "이사": (
        "이사 방향은 어디가 좋나요",
        "손 없는 날이 언제예요",
        "집을 사도 될 시기인가요",
        "전세 옮겨도 될까요",
    ),
    "사업": (
        "사업을 시작해도 될까요",
        "동업은 괜찮을까요",
        "가게 자리 계약해도 될까요",
        "개업일 좀 잡아주세요",
    ),
    "가족": (
        "아이 이름에 부족한 오행이 있나요",
        "엄마랑 자꾸 부딪혀요",
        "아이가 언제쯤 생길까요",
        "형제랑 사이가 멀어졌어요",
    ),
    "인간관계": (
        "구설수가 있나요",
        "귀인이 나타날까요",
        "친구한테 돈 빌려줘도 돼요",
        "사람들이 저를 오해하는 것 같아요",
    ),
}
_LEADS = (
    "",
    "",
    "",
    "저 ",
    "혹시 ",
    "근데 ",
    "그럼 ",
    "솔직히 ",
    "아 그리고 ",
    "선생님, ",
    "하나만 더요, ",
    "음... ",
)
_TAILS = (
    "?",
    "?",
    "?",
    "??",
    "? ㅠㅠ",
    "? 😢",
    "? 🙏",
    "?!",
    "? 너무 답답해서요",
    "? 궁금해요",
    ". 알려주세요!",
    "? ㅎㅎ",
    "?\n솔직하게요",
)
_REACTIONS = (
    "헐 소름이에요 😱",
    "와 진짜 맞아요!!",
    "감사합니다 🙏",
    "음 그건 잘 모르겠어요",
    "아 그렇구나... 위로가 되네요",
    "조금 더 자세히 말해 주세요",
    "'{god}' 뜻이 뭐예요?",
    '"{sinsal}" 있으면 나쁜 건가요?',
    "네 알겠습니다 ㅎㅎ",
    "{god}[이|가] 많다는 게 무슨 뜻이죠?",
    "그 시기를 피하려면 어떻게 하나요?",
    "친구가 {sinsal} 있다던데 저도 있나요?",
    "다른 데서는 {element} 기운이 부족하다던데요?",
    "{element} 기운을 채우려면 뭘 해야 해요?",
    "ㅋㅋㅋㅋ 딱 제 얘기네요 👍",
)
_OPENINGS = (
    "{gan} 일간으로 태어나신 분이시네요.",
    "말씀 감사합니다. {ganji} 일주를 중심으로 살펴보겠습니다.",
    "{ganji}일에 태어난 {gan}의 사주입니다 🔮",
    "좋은 질문이에요! 먼저 일간인 {gan}[을|를] 보면 이렇습니다.",
    "걱정이 많으셨겠어요. {ganji} 일주는 겉보다 속이 깊은 편입니다.",
    "사주 원국을 다시 확인해 보았습니다.",
    "네, {topic} 쪽을 중심으로 풀어 드릴게요 ✨",
    "{when} 흐름을 함께 보면서 말씀드리겠습니다.",
    "먼저 결론부터 말씀드리면, {topic}은 '서두르지 않을 때' 풀리는 모양입니다.",
)
_READINGS = (
    "{element} 기운이 {n}개로 강해서 추진력은 좋지만, 마무리에서 힘이 빠지기 쉽습니다.",
    "{god}[이|가] 월지에 자리 잡고 있어 책임감이 남다르고, 주변에서 의지하는 사람이 많습니다.",
    "{weak} 기운이 부족한 편이라 {element}의 기세를 다스려 줄 장치가 필요합니다.",
    "대운이 {ganji2}[으로|로] 바뀌면서 {topic}에 관한 생각이 크게 달라지는 시기입니다.",
    "{sinsal}[이|가] 있어서 사람을 끄는 힘이 있으나, 그만큼 구설도 따를 수 있습니다.",
    "{when} {ganji2}의 기운이 들어오면 막혀 있던 {topic} 문제가 조금씩 움직이기 시작합니다.",
    "{god}[과|와] {god2}[이|가] 함께 있어, 머리로는 알면서도 마음이 먼저 움직이는 구조입니다.",
    '지지에 충이 있어 환경의 변화가 잦은데, 이것은 나쁜 것이 아니라 "움직여야 풀리는" 사주라는 뜻입니다.',
    "용신은 {weak}에 해당하므로, {weak}의 기운을 가까이하실수록 {topic}이 안정됩니다.",
    "일지의 {branch}[은|는] 속으로 감정을 오래 담아 두는 성향을 나타냅니다.",
    "천간에 {god2}[이|가] 드러나 있어 {topic}에서는 말보다 결과로 인정받는 편이 유리합니다.",
)
_ADVICE = (
    "{when} 하시려는 일은 준비에 더 무게를 두시는 것이 좋습니다.",
    "문서와 계약은 두 번 확인하세요. 특히 {month}월은 조심하시고요.",
    "{color} 계열의 소품이나 {direction} 방향이 도움이 됩니다.",
    "건강이 먼저입니다. 물을 자주 드시고 잠을 충분히 주무세요 💧",
    "혼자 결정하지 마시고 믿을 만한 분과 상의해 보세요.",
    "{month}월과 {month2}월 사이에 반가운 소식이 들어올 가능성이 있습니다.",
    "지출은 계획표를 만들어 관리하시고, 충동적인 투자는 피하세요 📈",
    "조급해하지 않으셔도 됩니다. 때는 반드시 옵니다 🌿",
)
_CLOSINGS = (
    "",
    "",
    "더 궁금한 점이 있으시면 편하게 물어보세요 😊",
    "※ 사주는 참고일 뿐, 선택은 본인의 몫입니다.",
    "다른 운도 이어서 봐 드릴까요?",
    "오늘도 좋은 하루 보내세요 🌸",
    "상대방의 생년월일을 알려 주시면 궁합도 볼 수 있습니다.",
)
_COLORS = ("초록색", "붉은색", "노란색", "흰색", "검은색", "하늘색")
_DIRECTIONS = ("동쪽", "서쪽", "남쪽", "북쪽", "동남쪽", "서북쪽")
_HOURS = ("새벽", "아침", "점심 무렵", "오후", "저녁", "밤")


_PARTICLE = re.compile(r"(.)\[(\w+)\|(\w+)\]")
_RIEUL = 8


def _fill(template: str, **slots: object) -> str:
    """The template with its slots filled, and of each `[을|를]` the form that fits the syllable before it."""

    def fitting(match: re.Match[str]) -> str:
        before, closed, open_ = match.groups()
        final = (ord(before) - 0xAC00) % 28
        return before + (closed if final and not (final == _RIEUL and closed == "으로") else open_)

    return _PARTICLE.sub(fitting, template.format(**slots))


def birth_message(rng: Random, year: int, month: int, day: int, hour: int, lunar: bool) -> str:
    """A user gives the birth date, in one of the ways people do."""
    calendar = "음력" if lunar else "양력"
    when = f"{year}년 {month}월 {day}일"
    forms = (
        f"{calendar} {when} {hour}시생입니다. 사주 봐주세요",
        f"안녕하세요! {when} {_HOURS[hour // 4]}에 태어났어요 ({calendar})",
        f"{year}{month:02d}{day:02d} {calendar} {hour}시, {rng.choice(('여자', '남자'))}예요",
        f"생일은 {when}이고 {calendar}이에요.\n시간은 {hour}시쯤?",
        f"{year % 100:02d}년 {month}월 {day}일 {calendar} {hour:02d}:30. {rng.choice(TOPICS)}운은?",
    )
    return rng.choice(forms)


def user_message(rng: Random, topic: str) -> str:
    """A question about the topic, or now and then a reaction to the last answer."""
    if rng.random() < 0.25:
        return _fill(
            rng.choice(_REACTIONS),
            god=rng.choice(TEN_GODS),
            sinsal=rng.choice(SINSAL),
            element=rng.choice(ELEMENTS),
        )
    when = rng.choice(_WHEN) + " " if rng.random() < 0.6 else ""
    return rng.choice(_LEADS) + when + rng.choice(_ASKED[topic]) + rng.choice(_TAILS)


def _slots(rng: Random, topic: str, day_ganji: str) -> dict[str, object]:
    element, weak = rng.sample(ELEMENTS, 2)
    god, god2 = rng.sample(TEN_GODS, 2)
    index = rng.randrange(60)
    gan, sinsal, branch = STEM_NAMES[STEMS.index(day_ganji[0])], rng.choice(SINSAL), day_ganji[1]
    return {
        "gan": gan,
        "ganji": day_ganji,
        "ganji2": STEMS[index % 10] + BRANCHES[index % 12],
        "topic": topic + "운",
        "when": rng.choice(_WHEN),
        "element": ELEMENT_NAMES[element],
        "weak": ELEMENT_NAMES[weak],
        "n": rng.randrange(3, 6),
        "god": god,
        "god2": god2,
        "sinsal": sinsal,
        "branch": branch,
        "month": rng.randrange(1, 7),
        "month2": rng.randrange(7, 13),
        "color": rng.choice(_COLORS),
        "direction": rng.choice(_DIRECTIONS),
    }


def assistant_message(rng: Random, topic: str, day_ganji: str) -> str:
    """An answer of 100 to 400 characters: opening, readings, advice, closing; sometimes a heading."""
    slots = _slots(rng, topic, day_ganji)
    readings = rng.sample(_READINGS, rng.randrange(2, 5))
    advice = rng.sample(_ADVICE, rng.randrange(1, 3))
    if rng.random() < 0.3:
        parts = ["### {topic} 풀이", rng.choice(_OPENINGS), "", *(f"- {r}" for r in readings), "", *advice]
        separator = "\n"
    else:
        parts = [rng.choice(_OPENINGS), *readings, *advice]
        separator = rng.choice((" ", " ", "\n\n"))
    closing = rng.choice(_CLOSINGS)
    return _fill(separator.join([*parts, closing] if closing else parts), **slots)


def tool_result(rng: Random, pillars: tuple[str, ...], counts: dict[str, int]) -> str:
    """What the calculation tool returns: JSON, or rarely nothing, or an error with a backslash in it."""
    luck = rng.random()
    if luck < 0.02:
        return ""
    if luck < 0.03:
        return 'Error: KeyError("절기\\t테이블"); retry=1'
    names = ("year", "month", "day", "time")
    return json.dumps(
        {"pillars": dict(zip(names, pillars, strict=True)), "ohang": counts, "sinsal": rng.sample(SINSAL, 2)},
        ensure_ascii=False,
    )


def search_result(rng: Random, topic: str) -> str:
    """What the knowledge search returns: the ids and first words of some documents."""
    hits = [
        {
            "id": f"saju_knowledge_{rng.randrange(1200):04d}",
            "score": round(rng.uniform(0.55, 0.93), 4),
            "text": f"{rng.choice(TEN_GODS)}의 {topic}운, {rng.choice(SINSAL)} 포함",
        }
        for _ in range(rng.randrange(1, 4))
    ]
    return json.dumps({"results": hits}, ensure_ascii=False)


def knowledge(rng: Random, element: str, god: str, topic: str) -> str:
    """A document of the vector store on an element, a ten god and a topic."""
    slots = _slots(rng, topic, rng.choice(STEMS) + rng.choice(BRANCHES))
    slots |= {"god": god, "about": ELEMENT_NAMES[element]}
    body = [*rng.sample(_READINGS, 2), rng.choice(_ADVICE)]
    return _fill(" ".join(["{about}의 {god}[은|는] {topic}에 이렇게 작용합니다.", *body]), **slots)


_EFFECTS = ("의 상승", "의 잦은 변동", "에서 귀인의 도움", "과 관련된 지출 증가")
_PLACES = ("천간", "월지", "일지", "시지")
_TRENDS = ("서서히 상승하다가 안정", "초반에 흔들리고 후반에 회복", "짧고 강한 기회", "정체 뒤의 전환")


def rule(rng: Random, god: str, god2: str, topic: str) -> str:
    """An interpretation rule."""
    return _fill(
        "{god}[과|와] {god2}[이|가] {place}에 함께 있고 {sinsal}[이|가] 겹치면: {topic}운{effect}.",
        god=god,
        god2=god2,
        topic=topic,
        place=rng.choice(_PLACES),
        sinsal=rng.choice(SINSAL),
        effect=rng.choice(_EFFECTS),
    )


def pattern(rng: Random, timing: str, god: str, topic: str) -> str:
    """A fortune pattern: what tends to happen in which period."""
    return _fill(
        "{timing}에서 {god}[을|를] 만나는 {month}월, {topic}운의 흐름: {trend}.",
        timing=timing,
        god=god,
        topic=topic,
        month=rng.randrange(1, 13),
        trend=rng.choice(_TRENDS),
    )
