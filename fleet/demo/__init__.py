"""The demonstration: `python -m fleet.demo`, or `outlay demo`.

A client like any other: it starts `outlay serve`, asks held-out puzzles over the OpenAI API, of every fixed plan and of a policy,
and shows what each got right for how much money.

    gateway.py   a gateway of our own, started and stopped      figures.py   records to figures: pure
    asking.py    one question over the API, as a record         show.py      figures on a terminal
    rounds.py    all questions, plan beside plan                picture.py   the cost-accuracy picture
    command.py   the options, and all of it in order            files.py     results, and the table of the README
"""
