# ruff: noqa: E501  (a text is one line)
"""An explanation's three sentences in the language of the page. English is the explanation's own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from everlearn.explainers import Explanation
from everlearn.explainers.words import where

_PLACES = {
    "upper left": "왼쪽 위",
    "upper middle": "가운데 위",
    "upper right": "오른쪽 위",
    "left": "왼쪽",
    "centre": "가운데",
    "right": "오른쪽",
    "lower left": "왼쪽 아래",
    "lower middle": "가운데 아래",
    "lower right": "오른쪽 아래",
}
_WIDE = 0.35


def words_in(language: str, e: Explanation, name: Callable[[int], str]) -> str:
    """The words of an explanation."""
    return e.words if language != "ko" else " ".join([_what(e, name), _cases(e, name), _trust(e)])


def _what(e: Explanation, name: Callable[[int], str]) -> str:
    p = e.probability
    shown = "99.9 % 초과" if p > 0.999 else "0.1 % 미만" if p < 0.001 else f"{100 * p:.1f} %"
    head = (
        f"예측: {name(e.code)}, 확률 {shown}."
        if e.predicted
        else f"질문: {name(e.code)}, 확률 {shown} (예측한 범주가 아님)."
    )
    found = where(e.map)
    if found is None:
        return f"{head} 지도가 비어 있어 두드러진 영역이 없습니다."
    place, share = found
    at = "영상 전체에 퍼져 있습니다" if share > _WIDE else f"{_PLACES[place]}에 있습니다"
    if e.verdict == "supported":
        return f"{head} 근거 영역은 {at} (영상의 {share:.0%}가 지도의 절반을 차지)."
    if e.verdict == "weak":
        return f"{head} 지도가 가리키는 영역은 {at} (영상의 {share:.0%}가 절반을 차지). 뒷받침은 약합니다."
    return f"{head} 근거 영역을 말할 수 없습니다."


def _cases(e: Explanation, name: Callable[[int], str]) -> str:
    if not e.evidence:
        return "찬성하거나 반대하는 기억 사례가 없습니다."
    parts = []
    for cases, side in ((e.evidence_for, "찬성"), (e.evidence_against, "반대")):
        listed = ", ".join(f"{label} {n}건" for label, n in Counter(name(c.code) for c in cases).items())
        parts.append(f"{side} {listed} ({sum(c.value for c in cases):+.2f})" if cases else f"{side} 없음")
    return f"가장 가까운 기억 사례: {', '.join(parts)}."


def _trust(e: Explanation) -> str:
    f = e.faithfulness
    figures = f"삽입 {f.insertion:.2f} (무작위 지도 {f.random_insertion:.2f}), 삭제 {f.deletion:.2f} (무작위 지도 {f.random_deletion:.2f})"
    if e.verdict == "supported":
        return f"측정 결과 지도가 뒷받침됩니다: {figures}."
    if e.verdict == "weak":
        return f"측정 결과 지도의 뒷받침이 약하며 우연으로도 가능한 범위입니다: {figures}."
    return f"측정 결과 지도가 우연보다 낫지 않으므로 의지하지 마십시오: {figures}."
