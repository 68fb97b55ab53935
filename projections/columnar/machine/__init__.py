"""The account's state machine over integers: what `domain.loyalty` decides about an account, fact by fact.

Plain functions of integers and one array, and of the domain's own integer functions: `compiling` turns them into
machine code, and Python runs them as they are.

All that it works on is one array, `s`. Its first words (`V_…`) are registers; the rule sets follow (`rulebook` writes
them), then regions for what an account has, for scratch, and for the decisions that fall. Rules, lots, holds, coupons
are records in it, named by the index at which they begin. Of the fact at hand, registers say when it was and what it
says; what the rule sets see of it, and its items (lines), are copied in.

A decision is a run of integers ("words"): its kind, its time, then its clear fields in their order; ids as two words, a
tuple as its length and its items. So it can be compared with what the domain decides, or with what was recorded, word
by word.

layout     where everything stands in the array
writing    words of decisions, room for records
ledger     lots, holds and coupons in their orders; points that move
rules      the rule set for a moment, its calendar
tiers      what counts for them, when they change, coupons that come with them
due        what time alone does
limits     what was counted in a period, what may still come
earning, returning, spending, crediting     what facts do
reacting   where facts meet rules
plain      what most purchases earn, by the shortest way
running    accounts, from their first fact to their last
tables     what is reckoned for many facts at once
"""
