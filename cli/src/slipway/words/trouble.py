"""The command line's words for finding out what is wrong."""

import argparse

from slipway.words.verb import Verbs, add_output, add_verb


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`why`, `trace`, `doctor`, `ops`."""
    examples = """
        slipway why web  one sentence, what to do, and the evidence
        slipway why --tail 50 web  with more of its last output
        slipway why -o json mypod  a whole pod, for programs"""
    text = "say why a container or pod died, does not start, or that it is well"
    why = add_verb(verbs, "why", text, "why:why", examples)
    why.add_argument("--tail", type=int, default=10, metavar="N", help="last lines of output (%(default)s)")
    why.add_argument("name", metavar="CONTAINER|POD", help="its name, id or the beginning of the id")
    add_output(why)
    examples = """
        slipway trace web  from its creation on, across all services
        slipway trace web | jq '.spans[] | select(.ms > 100)'  its slow steps: piped, it is JSON
        slipway trace 4bf92f3577b34da6a3ce929d0e0e4736  one trace, by its id"""
    text = "show where the time of a container's or pod's life went, as a waterfall"
    trace = add_verb(verbs, "trace", text, "trace:trace", examples)
    trace.add_argument("name", metavar="CONTAINER|POD|TRACE", help="its name, id or the beginning of the id")
    add_output(trace)
    examples = """
        slipway doctor  all that was looked at; its exit code is 1 when something fails
        slipway doctor --deep  what the node has lost or left behind, too
        slipway doctor -o json  the same for programs"""
    text = "say what on this machine is missing or will bite, with the fix"
    doctor = add_verb(verbs, "doctor", text, "doctor:doctor", examples)
    deep = "compare all that the node has recorded with all that is on the machine, too; takes seconds"
    doctor.add_argument("--deep", action="store_true", help=deep)
    add_output(doctor)
    examples = """
        slipway ops  what goes on, since when, and at which step
        slipway ops cancel 3fa2  end a pull or a creation as if it had failed"""
    ops = add_verb(verbs, "ops", "list the operations that go on, or cancel one", "ops:ops", examples)
    add_output(ops)
    action = "list them (as without a word), or cancel one"
    ops.add_argument("action", nargs="?", choices=("list", "cancel"), default="list", help=action)
    ops.add_argument("id", nargs="?", default="", help="of the operation to cancel, or its beginning")
