"""Reports: what a run or an explanation looks like to a person."""

from everlearn.report.page import Case, check_place, comparable, explanation_page, report_run

__all__ = ["Case", "check_place", "comparable", "explanation_page", "report_run"]
