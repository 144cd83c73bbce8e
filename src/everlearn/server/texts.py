# ruff: noqa: E501  (a text is one line)
"""Every text of the pages, in English and Korean."""

from __future__ import annotations

import re
from collections.abc import Callable

from everlearn.server.discovery_texts import DISCOVERY_TEXTS

LANGUAGES = {"en": "English", "ko": "한국어"}

_TEXTS = {
    "worklist": ("Worklist", "판독 목록"),
    "memory": ("Memory", "기억"),
    "dashboard": ("Dashboard", "현황판"),
    "version": ("version", "버전"),
    "skip": ("Skip to content", "본문으로 건너뛰기"),
    "theme": ("Light or dark", "밝게 또는 어둡게"),
    "sign_out": ("Sign out", "로그아웃"),
    "sign_in": ("Sign in", "로그인"),
    "token": ("Token", "토큰"),
    "token_wrong": ("This token is not known.", "등록되지 않은 토큰입니다."),
    "token_hint": ("Ask for one made with: everlearn token RUN --name NAME --role reviewer", "everlearn token RUN --name NAME --role reviewer 명령으로 만든 토큰을 받으세요."),
    "order": ("Order", "정렬"),
    "by_doubt": ("most doubtful first", "불확실한 순"),
    "by_novelty": ("most novel first", "새로운 순"),
    "by_arrival": ("as they came", "도착한 순"),
    "show": ("Show", "보기"),
    "open_only": ("open cases", "미판독"),
    "all_cases": ("all cases", "전체"),
    "cases": ("cases", "건"),
    "case": ("Case", "사례"),
    "prediction": ("Prediction", "예측"),
    "doubt": ("Doubt", "불확실성"),
    "novelty": ("Novelty", "새로움"),
    "verdict": ("Verdict", "판정"),
    "nothing_open": ("Nothing is left to look at.", "판독할 사례가 없습니다."),
    "send": ("Add a picture or DICOM file", "영상 또는 DICOM 파일 추가"),
    "send_note": ("Only its pixels are stored; a patient becomes a pseudonym.", "화소만 저장되며, 환자는 가명으로 바뀝니다."),
    "previous": ("Previous", "이전"),
    "next": ("Next", "다음"),
    "next_case": ("Next case", "다음 사례"),
    "picture": ("Picture", "영상"),
    "what_it_rests_on": ("What the decision rests on", "판단의 근거"),
    "probabilities": ("Probabilities", "확률"),
    "calibrated": ("calibrated, temperature {0}", "보정됨, 온도 {0}"),
    "heat": ("Heat map", "열지도"),
    "opacity": ("Opacity", "불투명도"),
    "contours": ("Contours", "등고선"),
    "cutoff": ("No map below", "이 확률 미만은 표시 안 함"),
    "no_picture": ("The picture cannot be shown.", "영상을 표시할 수 없습니다."),
    "below_cutoff": ("Below the probability cut-off: no finding is drawn.", "설정 확률 미만이므로 소견을 표시하지 않습니다."),
    "window": ("Window", "윈도우 폭"),
    "level": ("Level", "윈도우 중심"),
    "zoom": ("Zoom", "확대"),
    "reset": ("Reset", "초기화"),
    "invert": ("Invert", "반전"),
    "why": ("Why", "이유"),
    "why_wait": ("Measuring what the decision rests on …", "판단의 근거를 측정하는 중 …"),
    "why_failed": ("The explanation could not be loaded.", "설명을 불러오지 못했습니다."),
    "explain_class": ("Explain", "설명할 범주"),
    "the_prediction": ("the prediction", "예측한 범주"),
    "speaks_for": ("Remembered cases that speak for it", "찬성하는 기억 사례"),
    "speaks_against": ("Remembered cases that speak against it", "반대하는 기억 사례"),
    "none": ("none", "없음"),
    "step": ("step", "단계"),
    "map_verdict": ("map", "지도"),
    "supported": ("supported", "뒷받침됨"),
    "weak": ("weak", "약함"),
    "not supported": ("not supported", "뒷받침되지 않음"),
    "your_verdict": ("Your verdict", "판정하기"),
    "accept": ("Accept", "맞음"),
    "correct_to": ("Correct to", "올바른 범주"),
    "correct": ("Correct", "수정"),
    "new_class": ("New class", "새 범주"),
    "teach": ("Teach it", "가르치기"),
    "unsure": ("Unsure", "판단 보류"),
    "undo": ("Undo", "되돌리기"),
    "note": ("Note", "메모"),
    "box": ("Draw a box where it really is", "실제 위치에 상자 그리기"),
    "box_clear": ("Clear box", "상자 지우기"),
    "keys": ("Keys", "단축키"),
    "keys_list": (
        "A accept · C correct · 1–9 class in the list · W new class · U unsure · Z undo · T note · B box · H heat map · K contours · I invert · "
        "+ − zoom · arrows pan · 0 reset · N next case · ? these keys · drag with Shift or the right button: window and level",
        "A 맞음 · C 수정 · 1–9 목록의 범주 · W 새 범주 · U 보류 · Z 되돌리기 · T 메모 · B 상자 · H 열지도 · K 등고선 · I 반전 · "
        "+ − 확대 · 화살표 이동 · 0 초기화 · N 다음 사례 · ? 이 도움말 · Shift 또는 오른쪽 단추로 끌기: 윈도우 폭과 중심",
    ),
    "saved": ("Verdict {0} is saved. It is being learned …", "판정 {0}이(가) 저장되었습니다. 학습 중 …"),
    "saved_check": ("Verdict {0} is saved. It is kept for checking new versions.", "판정 {0}이(가) 저장되었습니다. 새 버전 점검용으로 보관됩니다."),
    "saved_unsure": ("Verdict {0} is saved as unsure; nothing is learned from it.", "판정 {0}이(가) 보류로 저장되었습니다. 학습하지 않습니다."),
    "learned": ("Learned: version {0} now says {1} ({2}).", "학습됨: 버전 {0}의 예측은 {1} ({2})."),
    "held_back": ("Learned, but the new version was not put in service: {0}", "학습했으나 새 버전을 적용하지 않았습니다: {0}"),
    "still_learning": ("It is saved and will be learned; the queue is long.", "저장되었으며 곧 학습됩니다. 대기열이 깁니다."),
    "undone": ("Verdict {0} is taken back.", "판정 {0}을(를) 취소했습니다."),
    "nothing_to_undo": ("There is no verdict of this case to take back.", "취소할 판정이 없습니다."),
    "failed": ("Not saved: {0}", "저장되지 않았습니다: {0}"),
    "earlier": ("Verdicts so far", "지금까지의 판정"),
    "when": ("When", "시각"),
    "who": ("Who", "판정자"),
    "state": ("State", "상태"),
    "is_learned": ("learned", "학습됨"),
    "check": ("kept for checking", "점검용 보관"),
    "set aside": ("set aside", "제외됨"),
    "withdrawn": ("taken back", "취소됨"),
    "forgotten": ("forgotten", "삭제됨"),
    "remembered": ("{0} of at most {1} samples are remembered.", "최대 {1}개 중 {0}개를 기억합니다."),
    "memory_why": (
        "Replayed while learning and shown as evidence. A reviewed case always enters; others as the method chose.",
        "학습할 때 다시 사용되고 근거로 제시됩니다. 판정된 사례는 반드시 기억에 들어가며, 나머지는 학습 방법이 선택했습니다.",
    ),
    "class": ("Class", "범주"),
    "all": ("all", "전체"),
    "search": ("Search", "검색"),
    "remove": ("Remove", "삭제"),
    "remove_sure": ("Remove this sample from memory for good?", "이 사례를 기억에서 영구히 삭제할까요?"),
    "removed": ("It is being removed from memory.", "기억에서 삭제하는 중입니다."),
    "reviewed": ("reviewed", "판정됨"),
    "from_stream": ("from the stream", "스트림"),
    "alarms": ("Alarms", "경고"),
    "no_alarms": ("None.", "없음."),
    "accuracy_versions": ("Accuracy on the cases kept for checking, by version, %", "버전별 점검 사례 정확도, %"),
    "accuracy_tasks": ("Accuracy while the stream was learned, after each task, %", "스트림 학습 중 과제별 정확도, %"),
    "forgetting": ("Forgetting", "망각"),
    "forgetting_versions": ("Forgetting by version: mean loss of a class against its best so far, %", "버전별 망각: 범주별 최고 정확도 대비 평균 손실, %"),
    "memory_by_class": ("Memory by class", "범주별 기억"),
    "memory_by_age": ("Memory by age (step)", "시기별 기억 (단계)"),
    "queue": ("Learning queue", "학습 대기열"),
    "waiting": ("waiting", "대기"),
    "versions": ("Versions", "버전"),
    "reviews_learned": ("Reviews learned", "학습한 판정"),
    "accuracy": ("Accuracy", "정확도"),
    "in service": ("in service", "적용 중"),
    "retired": ("retired", "이전 버전"),
    "refused": ("refused", "거부됨"),
    "reason": ("Why", "사유"),
    "serve_again": ("Roll back to it", "이 버전으로 복원"),
    "serve_sure": ("Put this version in service and set aside what was learned since?", "이 버전을 적용하고 이후 학습을 제외할까요?"),
    "rolled_back": ("Rolling back …", "복원하는 중 …"),
    "predict_time": ("Prediction time, half and 95 % of them within", "예측 시간 (중앙값, 95 %)"),
    "predictions": ("Predictions", "예측 횟수"),
    "latest_reviews": ("Latest verdicts", "최근 판정"),
    "back": ("Back to the first page", "첫 화면으로"),
    "error": ("That did not work", "처리하지 못했습니다"),
    "x": ("x %", "x %"),
    "y": ("y %", "y %"),
    "width": ("width %", "너비 %"),
    "height": ("height %", "높이 %"),
    "patient": ("Patient", "환자"),
    "share": ("share", "기여"),
} | DISCOVERY_TEXTS  # fmt: skip


_LINES = {
    r"as the stream left it": "스트림 학습 직후 상태",
    r"taken up again": "중단된 곳에서 이어감",
    r"a review was taken back": "판정 취소",
    r"reviews were forgotten": "판정을 완전히 삭제함",
    r"(\d+) samples were removed from memory": "기억에서 사례 {0}개 삭제",
    r"version (\d+), which was in service, was damaged": "적용 중이던 버전 {0}이(가) 손상됨",
    r"of (\d+) cases kept for checking it has (\d+) fewer right than version (\d+); at most (.+) are allowed": "점검용 사례 {0}건에서 버전 {2}보다 {1}건 더 틀림; 허용 한도 {3}",
    r"version (\d+) was not put in service: (.+)": "버전 {0}을(를) 적용하지 않음: {1}",
    r"learning stands still: (.+)": "학습이 멈춤: {0}",
    r"the newest version cannot be loaded: (.+)": "최신 버전을 불러올 수 없음: {0}",
    r"(\d+) cases cannot be read; the first: (.+)": "사례 {0}건을 읽을 수 없음. 첫 번째: {1}",
    r"cases cannot be scored: (.+)": "사례의 점수를 계산할 수 없음: {0}",
    r"review (\d+) cannot be learned: (.+)": "판정 {0}을(를) 학습할 수 없음: {1}",
    r"the run's own held-out samples are no cases here: (.+)": "이 서버에서는 보류된 표본을 사례로 쓸 수 없음: {0}",
}
"""Lines that the journal keeps in English, as patterns."""


def line_in(language: str, line: str) -> str:
    """A reason or an alarm in a language; what is not known stays as it is.

    Examples
    --------
    >>> line_in("ko", "version 7 was not put in service: taken up again")
    '버전 7을(를) 적용하지 않음: 중단된 곳에서 이어감'
    """
    for pattern, korean in _LINES.items() if language == "ko" else ():
        if found := re.fullmatch(pattern, line):
            return korean.format(*(line_in(language, part) for part in found.groups()))
    return line


def text(language: str, key: str, *values: object) -> str:
    """A text in a language.

    Examples
    --------
    >>> text("en", "saved_unsure", 7)
    'Verdict 7 is saved as unsure; nothing is learned from it.'
    """
    return _TEXTS[key][language == "ko"].format(*values) if values else _TEXTS[key][language == "ko"]


def translator(language: str) -> Callable[..., str]:
    """`text` for one language."""
    return lambda key, *values: text(language, key, *values)
