"""Formulae and reactions: what is the same substance, and what is chemistry at all."""

import time

import pytest

from verifier_service.chemistry import is_chemistry, read_species, same_chemistry


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("H2SO4", r"\mathrm{H_2SO_4}"),
        ("H2SO4", "H₂SO₄"),
        ("H2SO4", "H2SO4(aq)"),
        ("SO4^2-", r"SO_4^{2-}"),
        ("Fe3+", r"\ce{Fe^{3+}}"),
        ("CuSO4·5H2O", r"\mathrm{CuSO_4 \cdot 5H_2O}"),
        ("Ca(OH)2", "CaO2H2"),
        ("NaCl", "ClNa"),
        ("^{14}C", "{}^{14}_{6}C"),
        ("CH4 + 2O2 = CO2 + 2H2O", "2O2 + CH4 → 2H2O + CO2"),
        (r"\ce{2H2 + O2 -> 2H2O}", "H2 + 1/2 O2 -> H2O"),
        ("H2O ⇌ H+ + OH-", r"\mathrm{H_2O \rightleftharpoons H^+ + OH^-}"),
        ("CaCO3 = CaO + CO2", "CaCO3(s) → CaO(s) + CO2(g)"),
    ],
)
def test_same(gold: str, answer: str) -> None:
    assert same_chemistry(gold, answer) is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("CO2(s)", "CO2(g)"),
        ("NH3", "NH4+"),
        ("Fe^{3+}", "Fe^{2+}"),
        ("H2O", "H2O2"),
        ("CH3CH2OH", "CH3OCH3"),
        ("^{14}C", "^{12}C"),
        ("2H2 + O2 -> 2H2O", "H2 + O2 -> H2O"),
        ("2H2 + O2 -> 2H2O", "2H2O -> 2H2 + O2"),
        ("N2 + 3H2 -> 2NH3", "N2 + 3H2 -> 2NH2"),
        ("H2O", "water or ice"),
        ("H2O", "H2O, CO2"),
        ("CO", "Co"),
    ],
)
def test_different(gold: str, answer: str) -> None:
    assert same_chemistry(gold, answer) is False


@pytest.mark.parametrize("text", ["H2O", "CO", "Na+", "2H2 + O2 -> 2H2O", "CaCO3 = CaO + CO2", r"\ce{SO4^2-}"])
def test_chemistry(text: str) -> None:
    assert is_chemistry(text)


@pytest.mark.parametrize(
    "text",
    ["F=ma", "PV=nRT", "E = KE + PE", "U=IR", "B", "I", "No", "He", "pH = 7", "Paris", "oxygen", "5", "2.5 mol", ""],
)
def test_no_chemistry(text: str) -> None:
    assert not is_chemistry(text)


def test_charges_written_late() -> None:
    species = read_species("SO42-")
    assert species is not None
    assert (species.charge, species.atoms) == (-2, (("S", 1), ("O", 4)))


@pytest.mark.parametrize("text", ["(" * 400, "H" * 500, "H2+" * 150, "->" * 200, "^{" * 200])
def test_hostile_formulae(text: str) -> None:
    started = time.process_time()
    same_chemistry("H2O", text)
    same_chemistry("2H2 + O2 -> 2H2O", text)
    assert time.process_time() - started < 0.5
