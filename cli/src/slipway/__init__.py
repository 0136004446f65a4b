"""The slipway command: images and containers of a node, for people.

`main` lets `parser` find the command, whose group in `words` names the function in `commands` that does it. What commands share:
`options` (what values of options mean), `containers`, `streams` (a terminal and other standard streams), `output`.
`building` builds images, `doctor` looks at the machine, `completion` knows the words for a shell and the manual page.
"""
