"""Replay over columns: the same rule sets, the same facts, the same decisions as the domain's own code, compiled.

- `compiling`: domain functions, compiled with what they call;
- `native`: what was compiled, kept and called;
- `names`: codes, decisions and ids as integers;
- `facts`: what happens to accounts, as arrays;
- `rulebook`: rule sets as an array of integers, and what they see of each fact;
- `machine`: the account's state machine over these arrays;
- `executor`: accounts run through it;
- `certify`: what they decide beside what was recorded.
"""
