# ruff: noqa: E501  (a text is one line)
"""A proposal's reasons in the language of the page. English is the words as they were measured with the batch."""

from __future__ import annotations

from everlearn.discovery.view import View
from everlearn.discovery.words import number, short


def reasons_in(language: str, view: View, units: dict[str, str]) -> str:
    """The words of a proposal; ``units`` by target."""
    if language != "ko":
        return str(view["words"])
    if not view["expected"]:
        return "아직 학습한 것이 없어, 측정된 후보와 다르고 서로 다른 후보를 골랐습니다."
    said = [_rests_on(view, units), _measured(view), _trust(view)]
    if view.get("why") == "learn":
        said.insert(0, "그 자체의 값이 아니라 다른 후보들에 대해 알려 주는 것이 많아 골랐습니다.")
    return " ".join(said)


def _rests_on(view: View, units: dict[str, str]) -> str:
    first = view["expected"][0]
    unit = units.get(first["target"], "")
    head = f"예상 {first['target']} {number(first['value'])}{' ' + unit if unit else ''} (80 % 구간 {number(first['low'])} ~ {number(first['high'])})."
    if not view["effects"]:
        return f"{head} 떼어 낼 부분이 없습니다."
    best = view["effects"][0]
    if best["effect"] <= 0:
        return f"{head} 값을 좋게 하는 단일 부분이 없습니다."
    said = view["checks"].get("parts", {}).get("verdict", "not supported")
    without = f"{short(best['name'])} (없을 때 {number(best['value'])})"
    if said == "supported":
        return f"{head} 근거 부분: {without}."
    return f"{head} 약한 근거: {without}." if said == "weak" else f"{head} 근거로 들 수 있는 부분이 없습니다."


def _measured(view: View) -> str:
    def listed(side: str) -> str:
        return ", ".join(f"{short(each['name'])} ({number(each['value'])})" for each in view[side]) or "없음"

    return f"찬성하는 측정 후보: {listed('cases_for')}; 반대: {listed('cases_against')}."


def _trust(view: View) -> str:
    verdicts = {"supported": "뒷받침됨", "weak": "약함", "not supported": "뒷받침되지 않음"}
    said = []
    for what, name in (("parts", "부분"), ("cases", "측정 후보")):
        check = view["checks"].get(what)
        said.append(
            f"{name} {verdicts[check['verdict']]}, 제거 시 변화 {check['named']:.2f} (무작위 {check['random']:.2f})"
            if check
            else f"{name} 점검 불가"
        )
    return f"측정: {'; '.join(said)}."
