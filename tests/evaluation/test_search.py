"""Searches on a small tree of numbers, whose best plan is known."""

import numpy as np
import pytest

from r1jax.errors import UsageError
from r1jax.evaluation.search import Node, Problem, Search

STOP = 2
# Quality after each plan of tools 0 and 1: the way to the best leads through the worse.
QUALITY = {(): 1.0, (0,): 2.0, (1,): 0.5, (0, 0): 2.5, (0, 1): 1.0, (1, 0): 4.0, (1, 1): 0.0}
VALUE = {(): 3.0, (0,): 0.5, (1,): 3.5}
PROBABILITY = {(): (0.6, 0.3, 0.1), (0,): (0.2, 0.1, 0.7), (1,): (0.5, 0.4, 0.1)}


class Numbers:
    """An image is the plan that made it; counts the calls."""

    def __init__(self):
        self.calls = []
        self.problem = Problem(2, 2, self.look, self.call, lambda image: QUALITY[image])
        self.root = Node((), scores=(QUALITY[()],))

    def look(self, node):
        return np.log(np.array(PROBABILITY[node.plan])), VALUE[node.plan]

    def call(self, tool, image):
        self.calls.append((*image, tool))
        return (*image, tool)

    def plan(self, text):
        return Search.parse(text).plan(self.problem, self.root)


def test_argmax_takes_the_likeliest_actions_and_stops():
    numbers = Numbers()
    node = numbers.plan("argmax")
    assert (node.plan, node.scores, numbers.calls) == ((0,), (1.0, 2.0), [(0,)])
    assert node.log_likelihood == pytest.approx(np.log(0.6 * 0.7))


def test_a_wider_beam_finds_the_way_through_a_worse_image():
    assert Numbers().plan("beam:1").plan == (0,)  # (0, 0) is better, but a beam of one tries only STOP there
    assert Numbers().plan("beam:1:value").plan == (0,)
    assert Numbers().plan("beam:2:value").plan == (1, 0)
    by_score = Search("beam", 2, "score")
    numbers = Numbers()
    assert by_score.plan(numbers.problem, numbers.root).plan == (1, 0)  # wide enough for both first calls
    assert len(numbers.calls) == len(set(numbers.calls)) == 5


def test_a_beam_by_likelihood_asks_no_scorer():
    numbers = Numbers()
    problem = Problem(2, 2, numbers.look, numbers.call, lambda image: np.nan)
    assert Search.parse("beam:3:likelihood").plan(problem, numbers.root).plan == (0,)


def test_more_samples_find_better_plans_and_repeat_no_call():
    few, numbers = Numbers().plan("sample:1"), Numbers()
    node = numbers.plan("sample:64")
    assert node.plan == (1, 0) and node.scores[-1] >= few.scores[-1]
    assert len(numbers.calls) == len(set(numbers.calls))
    assert Numbers().plan("sample:64").plan == node.plan


@pytest.mark.parametrize("text", ["best", "argmax:3", "beam", "beam:0", "beam:2:taste", "sample:x", "beam:2:score:1"])
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match=f"--search {text}: want argmax"):
        Search.parse(text)
