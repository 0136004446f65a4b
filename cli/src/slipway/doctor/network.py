"""The pods' network: CNI and what forwards its packets."""

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


def dropped(machine: Machine) -> list[Finding]:
    """Whether the bridges of the network that runtimed takes have their packets forwarded where the rules' default is no.

    Docker makes it so when it starts. A plugin that accepts what it knows, and a network that makes rules of its own, are
    taken at their word.
    """
    iptables = machine.program("iptables")
    rules = machine.said(iptables, "-S", "FORWARD").splitlines() if iptables else []
    if "-P FORWARD DROP" not in rules:
        return []
    found = []
    for bridge in _bridges(machine):
        missing = [way for way in ("-i", "-o") if f"-A FORWARD {way} {bridge} -j ACCEPT" not in rules]
        if missing:
            text = f"iptables drops it by default, as Docker has it: pods on {bridge} reach this node and each other alone"
            fix = " && ".join(f"iptables -I FORWARD {way} {bridge} -j ACCEPT" for way in missing)
            found.append(Finding("forwarding rules", Level.WARN, text, fix))
    return found


def _bridges(machine: Machine) -> list[str]:
    """Of the first network that can be read; none when another of its plugins makes rules."""
    for path in cniconf.candidates(machine.at(machine.cni_dir)):
        try:
            plugins = cniconf.read(path).plugins
        except InvalidArgumentError:
            continue
        if any(plugin["type"] == "firewall" for plugin in plugins):
            return []
        return [str(plugin.get("bridge", "cni0")) for plugin in plugins if plugin["type"] == "bridge"]
    return []


CHECKS = (cni, forwarding, dropped)
