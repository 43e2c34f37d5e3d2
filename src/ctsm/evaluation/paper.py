"""The paper's Tables 1 and 3, the only results in the project that were typed by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass

SOURCE = "Wang et al., CTSM: Combining Trait and State Emotions for Empathetic Response Model"


@dataclass(frozen=True)
class PaperRow:
    """One printed row: test split, Acc and Dist in percent; `model` and `variant` as in a `ResultRecord`."""

    label: str
    model: str
    variant: str
    acc: float | None
    ppl: float
    dist1: float
    dist2: float

    @property
    def name(self) -> str:
        """What the row's configuration and runs are called, such as "ctsm-wo-egm-ccl"."""
        return file_name(self.model, self.variant.replace("/", ""))


def file_name(*parts: str) -> str:
    """Join words to a file name of small letters, digits and hyphens; empty ones are left out."""
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)))


TABLE_1 = (
    PaperRow("Transformer", "transformer", "", None, 37.73, 0.47, 2.04),
    PaperRow("MoEL", "moel", "", 32.00, 38.04, 0.44, 2.10),
    PaperRow("MIME", "mime", "", 34.24, 37.09, 0.47, 1.91),
    PaperRow("EmpDG", "empdg", "", 34.31, 37.29, 0.46, 2.02),
    PaperRow("KEMP", "kemp", "", 39.31, 36.89, 0.55, 2.29),
    PaperRow("CEM", "cem", "", 39.11, 36.11, 0.66, 2.99),
    PaperRow("CASE", "case", "", 40.20, 35.37, 0.74, 4.01),
    PaperRow("CTSM", "ctsm", "", 43.41, 34.56, 2.00, 7.34),
)

TABLE_3 = (
    TABLE_1[-1],
    PaperRow("w/o TEE", "ctsm", "w/o TEE", 42.58, 34.68, 1.18, 4.28),
    PaperRow("w/o SEE", "ctsm", "w/o SEE", 42.63, 35.01, 1.42, 5.06),
    PaperRow("w/o EGM", "ctsm", "w/o EGM", 39.66, 35.08, 1.72, 6.50),
    PaperRow("w/o CCL", "ctsm", "w/o CCL", 42.97, 34.42, 1.73, 6.27),
    PaperRow("w/o EGM & CCL", "ctsm", "w/o EGM & CCL", 41.88, 36.35, 1.57, 5.42),
)

TABLES = {"Table 1": TABLE_1, "Table 3": TABLE_3}
