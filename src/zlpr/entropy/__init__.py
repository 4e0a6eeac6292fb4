"""Entropy, divergence and information from nearest neighbours, and the exact search under them."""

from zlpr.entropy.discrete import knn_mutual_information_discrete
from zlpr.entropy.divergence import knn_cross_entropy, knn_kl_divergence
from zlpr.entropy.knn import knn_entropy
from zlpr.entropy.mutual_information import (
    knn_conditional_mutual_information,
    knn_mutual_information,
    knn_total_correlation,
    knn_transfer_entropy,
)
from zlpr.entropy.permutation import PermutationTest, permutation_test
from zlpr.entropy.search import neighbors

__all__ = [
    "PermutationTest",
    "knn_conditional_mutual_information",
    "knn_cross_entropy",
    "knn_entropy",
    "knn_kl_divergence",
    "knn_mutual_information",
    "knn_mutual_information_discrete",
    "knn_total_correlation",
    "knn_transfer_entropy",
    "neighbors",
    "permutation_test",
]
