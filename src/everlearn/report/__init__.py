"""Reports: what a run or an explanation looks like to a person."""

from everlearn.report.page import Case, comparable, explanation_page, report_run

__all__ = ["Case", "comparable", "explanation_page", "report_run"]
