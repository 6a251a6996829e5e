"""What is missing, said in few lines."""

from robbench.report.missing import missing_section


def both(*cases: str) -> list[str]:
    """Both stages of cases."""
    return [f"{case}.{stage}" for case in cases for stage in ("training", "robustness")]


def test_a_family_is_one_line_with_its_k() -> None:
    """Fourteen stages of seven transfers are one line; a stage that is missing alone is another."""
    names = [*both(*(f"cnn7-emnist-TL{k}-adversarial" for k in (1, 2, 3, 5))), "cnn7-emnist-pgd.robustness"]
    assert missing_section(names, ["cnn7-mnist-pgd"]) == (
        "Missing, without a result here: 9 stages.\n\n"
        "- cnn7-emnist-TL#k-adversarial, k = 1–3, 5: neither trained nor tested\n"
        "- cnn7-emnist-pgd: not tested"
    )


def test_an_architecture_without_a_record_is_one_line() -> None:
    """A run with -k cnn7 says of cnn4 only how many models it has."""
    names = both("cnn4-mnist-pgd", "cnn4-emnist-TL1", "cnn4-emnist-TL2")
    assert (missing_section(names, ["cnn7-mnist-pgd"]) or "").endswith("\n- cnn4: none of its 3 models")


def test_seeds_are_joined() -> None:
    """Two missing seeds of a model are a range, not lines."""
    names = both("cnn7-emnist-TL1-seed1", "cnn7-emnist-TL1-seed2", "cnn7-emnist-TL2-seed1")
    text = missing_section(names, ["cnn7-mnist-pgd"]) or ""
    assert text.endswith("- cnn7-emnist-TL#k, k = 1–2, seeds 1–2: neither trained nor tested")


def test_nothing_missing_says_nothing() -> None:
    """No section at all."""
    assert missing_section([], ["cnn7-mnist-pgd"]) is None
