"""Evaluation: planners, the benchmark's table, and the report of a run.

simulator.py        tools and scorer on any number of images, few compiled shapes; how states are numbered
tree.py             every state of one image, scored once
world.py            what planners may ask, and at what price
planners.py         input, random, fixed order, greedy, oracle, agent
judges.py           full-reference metrics
statistics.py       means over mixes, paired bootstrap intervals
benchmark.py        evaluate: the planners on a benchmark; table.py is its result
during_training.py  the evaluation that the trainer calls
report.py           one HTML page of a run; page.py is its look
"""
