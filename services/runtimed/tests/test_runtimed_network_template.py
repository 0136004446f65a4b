"""The template language of CNI configurations."""

import pytest

from common.errors import FailedPreconditionError, InvalidArgumentError
from runtimed.network import template

VALUES = {".PodCIDR": "10.0.0.0/24", ".PodCIDRRanges": ["10.0.0.0/24", "fd00::/64"], ".Routes": []}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("plain", "plain"),
        ("<{{.PodCIDR}}>", "<10.0.0.0/24>"),
        ("{{range .PodCIDRRanges}}[{{.}}]{{end}}", "[10.0.0.0/24][fd00::/64]"),
        (
            "{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}{{$r}}{{end}}",
            "10.0.0.0/24, fd00::/64",
        ),
        ("{{range $r := .Routes}}{{$r}}{{else}}none{{end}}!", "none!"),
        ("{{if .Routes}}a{{else}}b{{end}}", "b"),
        ("a  {{- .PodCIDR -}}  b", "a10.0.0.0/24b"),
        ("{{ range .Routes }}{{range .PodCIDRRanges}}x{{end}}{{ end }}y", "y"),
    ],
)
def test_templates_are_filled(text: str, made: str) -> None:
    assert template.render(text, VALUES) == made


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{.Secret}}", r"\.Secret"),
        ("{{exec .PodCIDR}}", "exec"),
        ("{{range .Routes}}", "end"),
        ("x{{end}}", "end"),
        ("{{if .PodCIDR}}a", "end"),
    ],
)
def test_what_is_not_understood_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        template.render(text, VALUES)


def test_ranges_and_configurations_are_judged() -> None:
    assert template.ranges("10.0.0.0/24, fd00::/64") == ["10.0.0.0/24", "fd00::/64"]
    with pytest.raises(InvalidArgumentError, match="pod_cidr"):
        template.ranges("10.0.0.1/24")
    with pytest.raises(FailedPreconditionError, match="cni_conf_template"):
        template.conflist("no json", ["10.0.0.0/24"])
    with pytest.raises(FailedPreconditionError, match="plugins"):
        template.conflist('{"name": "x", "cniVersion": "1.0.0", "plugins": []}', ["10.0.0.0/24"])
    text = '{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"t","r":[{{range .Routes}}"{{.}}"{{end}}]}]}'
    assert b'"r":["::/0"]' in template.conflist(text, ["fd00::/64"])
