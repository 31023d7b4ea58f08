"""Settings come from ICCM_* variables, are checked at once, and never show a password."""

import pytest

from infra.problems import BadInput
from infra.settings import read, without_password


def test_nothing_set_means_the_embedded_services() -> None:
    chosen = read({"PATH": "/bin"})
    assert (chosen.kafka, chosen.postgres, chosen.namespace, chosen.partitions) == ("", "", "iccm", 4)
    assert chosen.home.name == ".iccm"


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("ICCM_KAFKAA", "x", "unknown setting ICCM_KAFKAA"),
        ("ICCM_PARTITIONS", "none", "ICCM_PARTITIONS='none'"),
        ("ICCM_PARTITIONS", "0", "ICCM_PARTITIONS='0'"),
        ("ICCM_NAMESPACE", "Has Spaces", "ICCM_NAMESPACE='Has Spaces'"),
        ("ICCM_SANDBOX", "none", "ICCM_SANDBOX='none'"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        read({name: value})


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:secret@db/iccm", "host=db password=secret user=me", "host=db password = 'secret' user=me"],
)
def test_a_password_is_never_shown(address: str) -> None:
    assert "secret" not in without_password(address)
    assert "secret" not in str(read({"ICCM_POSTGRES": address}).shown())
