"""The pods' network: CNI and forwarding."""

from common import cniconf
from common.errors import InvalidArgumentError
from slipway.doctor.finding import Finding, Level, Machine

_FIX = "Install a network, as your CNI's page says, or put a *.conflist there. Pods on the host's network need none."


def cni(machine: Machine) -> list[Finding]:
    """The first configuration that runtimed takes, those that it refuses before, and whether its plugins are installed."""
    found: list[Finding] = []
    for path in cniconf.candidates(machine.at(machine.cni_dir)):
        try:
            conf = cniconf.read(path)
        except InvalidArgumentError as exc:
            text = f"refused, so that the next file is taken: {exc.message}"
            found.append(Finding("CNI", Level.WARN, text, "Mend it, or remove it."))
            continue
        plugins = [str(plugin["type"]) for plugin in conf.plugins]
        told = Finding("CNI", Level.OK, f"{path.name}: {', '.join(plugins)}")
        return [*found, told, *_missing(machine, path.name, plugins)]
    if found:
        text = f"no file in {machine.cni_dir} is a network: {found[0].text.partition(': ')[2]}"
        return [Finding("CNI", Level.FAIL, text, _FIX)]
    text = f"no *.conflist in {machine.cni_dir}: only pods on the host's network"
    return [Finding("CNI", Level.WARN, text, _FIX)]


def _missing(machine: Machine, name: str, plugins: list[str]) -> list[Finding]:
    found = []
    for plugin in plugins:
        if any(machine.at(f"{place}/{plugin}").exists() for place in machine.plugin_dirs):
            continue
        text = f"{plugin} of {name} is in none of {', '.join(machine.plugin_dirs)}"
        if machine.in_containers:
            text += ": it is to be in runtimed's image, which has Debian's"
            found.append(Finding("CNI plugin", Level.NOTE, text))
            continue
        fix = "`apt-get install containernetworking-plugins` has the usual ones."
        found.append(Finding("CNI plugin", Level.FAIL, text, fix))
    return found


def forwarding(machine: Machine) -> list[Finding]:
    found = []
    for family, path in (("IPv4", "net/ipv4/ip_forward"), ("IPv6", "net/ipv6/conf/all/forwarding")):
        value = machine.read(f"/proc/sys/{path}")
        if value == "0":
            level = Level.WARN if family == "IPv4" else Level.NOTE
            fix = f"sysctl -w {path.replace('/', '.')}=1"
            found.append(
                Finding(f"{family} forwarding", level, "off: pods of CNI reach this node alone", fix)
            )
        elif value:
            found.append(Finding(f"{family} forwarding", Level.OK, "on"))
    return found


CHECKS = (cni, forwarding)
