from __future__ import annotations

import pytest

from ctsm.evaluation.paper import SOURCE, TABLE_1, TABLE_3, TABLES

ROWS_1 = {row.label: row for row in TABLE_1}
ROWS_3 = {row.label: row for row in TABLE_3}


def test_the_gains_over_case_that_the_paper_states_follow_from_its_table():
    ctsm, case = ROWS_1["CTSM"], ROWS_1["CASE"]
    assert ctsm.acc is not None
    assert case.acc is not None
    assert 100 * (ctsm.acc / case.acc - 1) == pytest.approx(7.99, abs=0.005)
    assert 100 * (ctsm.dist1 / case.dist1 - 1) == pytest.approx(170.27, abs=0.005)
    assert 100 * (ctsm.dist2 / case.dist2 - 1) == pytest.approx(83.04, abs=0.005)
    assert 100 * (1 - ctsm.ppl / case.ppl) == pytest.approx(2.29, abs=0.005)


def test_what_the_paper_says_of_its_ablations_holds():
    assert ROWS_3["CTSM"] == ROWS_1["CTSM"]
    assert min(TABLE_3, key=lambda row: row.ppl).label == "w/o CCL"  # "its PPL value is better than CTSM"
    assert min(TABLE_3, key=lambda row: row.acc or 0).label == "w/o EGM"
    assert min(TABLE_3, key=lambda row: row.dist1).label == "w/o TEE"
    both, case = ROWS_3["w/o EGM & CCL"].acc, ROWS_1["CASE"].acc
    assert both is not None
    assert case is not None
    assert both > case  # "the superior Acc in the w/o EGM & CCL relative to CASE"


def test_every_row_has_a_model_and_a_place():
    assert [row.label for row in TABLE_1] == ["Transformer", "MoEL", "MIME", "EmpDG", "KEMP", "CEM", "CASE", "CTSM"]
    assert ROWS_1["Transformer"].acc is None
    assert all(row.model == "ctsm" and row.variant == row.label for row in TABLE_3[1:])
    assert set(TABLES) == {"Table 1", "Table 3"}
    assert "Trait and State" in SOURCE
