"""Valuation: what each sample is worth, as pure functions on tensors."""

from everlearn.valuation.knn_shapley import knn_shapley, mean_knn_shapley
from everlearn.valuation.leave_one_out import LeaveOneOut, leave_one_out
from everlearn.valuation.threshold_knn_shapley import threshold_knn_shapley
from everlearn.valuation.truncated_knn_shapley import Truncated, truncated_knn_shapley
from everlearn.valuation.weighted_knn_shapley import weighted_knn_shapley
from everlearn.valuation.wrong_labels import WrongLabels, wrong_labels

__all__ = [
    "LeaveOneOut",
    "Truncated",
    "WrongLabels",
    "knn_shapley",
    "leave_one_out",
    "mean_knn_shapley",
    "threshold_knn_shapley",
    "truncated_knn_shapley",
    "weighted_knn_shapley",
    "wrong_labels",
]
