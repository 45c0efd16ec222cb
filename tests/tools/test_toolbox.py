"""The registry of tools: looking up, mixing, a user's own, and what goes wrong."""

import functools
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import R1JaxError, UsageError
from r1jax.tools import Tool, Toolbox, known_names, register_tool, register_toolbox, toolbox

X = np.full((2, 4, 4, 3), 0.25, np.float32)


@register_tool("test_invert", task="brighten")
def invert(x):
    return 1.0 - x


@register_tool("test_scale", task="denoise")
def scale():
    return Tool("anything", "denoise", lambda params, x: x * params["gain"], {"gain": jnp.float32(2.0)})


register_toolbox("test_pair", ("test_scale", "test_invert"))


def _write(tmp_path, body, name="my_tools.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(body))
    return path


def test_looks_up_toolboxes_tools_and_mixtures():
    assert toolbox("test_pair").names == ("test_scale", "test_invert")
    assert toolbox("test_invert").names == ("test_invert",)
    mixed = toolbox(("test_pair", "clahe"))
    assert mixed.names == ("test_scale", "test_invert", "clahe")
    assert (mixed.name, len(mixed)) == ("test_pair+clahe", 3)
    assert mixed.params[0] == {"gain": 2.0} and mixed.params[1] == ()
    assert mixed.tools[1].task == "brighten"
    assert [tool.whole_image for tool in mixed.tools] == [False, False, True]


def test_builtin_toolboxes_are_known():
    toolboxes, tools = known_names()
    assert {"lite", "classical", "full"} <= set(toolboxes)
    assert {"clahe", "denoise", "test_invert"} <= set(tools)


def test_apply_by_int_and_by_traced_index():
    pair = toolbox("test_pair")
    np.testing.assert_allclose(pair.apply(0, X), 0.5)
    np.testing.assert_allclose(jax.jit(pair.apply)(jnp.int32(1), X), 0.75)


def test_a_factory_may_have_options_with_defaults():
    def make(gain, unused=3):
        return Tool("gain", "", lambda params, x: x * gain)

    register_tool("test_gain")(functools.partial(make, 3.0))
    np.testing.assert_allclose(toolbox("test_gain").apply(0, X), 0.75)


OWN_FILE = """
    from r1jax.tools import register_tool

    @register_tool("my_halve", task="brighten")
    def halve(x):
        return 0.5 * x

    @register_tool("my_double", task="brighten")
    def double(x):
        return 2.0 * x
"""


def test_tools_in_a_users_file(tmp_path):
    path = _write(tmp_path, OWN_FILE)
    assert toolbox(str(path)).names == ("my_halve", "my_double")
    assert toolbox(("clahe", f"{path}:my_double")).names == ("clahe", "my_double")
    np.testing.assert_allclose(toolbox("my_halve").apply(0, X), 0.125)
    with pytest.raises(UsageError, match="registers no tool 'nope'; it has my_halve, my_double"):
        toolbox(f"{path}:nope")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1", "registers no tool"),
        ("import no_such_module_of_mine", "ModuleNotFoundError: No module named"),
        ("def (", "tools.py:1: SyntaxError"),
    ],
)
def test_unusable_files(tmp_path, body, message):
    with pytest.raises(UsageError, match=message):
        toolbox(str(_write(tmp_path, body)))


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError, match=r"nowhere\.py: no such file"):
        toolbox("nowhere.py:clahe")


def test_unknown_name_lists_the_known_and_the_closest():
    with pytest.raises(UsageError, match="'clahee'; did you mean 'clahe'\\?") as caught:
        toolbox(("test_pair", "clahee"))
    message = str(caught.value)
    assert "denoise" in message and "classical" in message and "\n" not in message


@pytest.mark.parametrize("spec", [("test_pair", "test_invert"), ("clahe", "clahe")])
def test_a_tool_appears_once(spec):
    with pytest.raises(UsageError, match="appears twice"):
        toolbox(spec)


def test_an_empty_toolbox():
    with pytest.raises(UsageError, match="no tools"):
        toolbox(())


def test_a_name_is_taken_but_may_be_defined_again():
    register_tool("test_invert", task="brighten")(invert)  # a notebook cell that runs twice
    with pytest.raises(UsageError, match=r"taken by .*invert"):
        register_tool("test_invert")(lambda x: x)
    with pytest.raises(UsageError, match="taken by a toolbox"):
        register_tool("test_pair")(lambda x: x)
    with pytest.raises(UsageError, match="taken by a tool"):
        register_toolbox("test_invert", ())


def test_a_factory_that_returns_no_tool():
    register_tool("test_broken")(lambda: 3)
    with pytest.raises(UsageError, match="'test_broken': its factory returned int"):
        toolbox("test_broken")


def test_a_tool_must_keep_the_shape():
    crop = Toolbox("crop", (Tool("crop", "", lambda params, x: x[:, 1:]),))
    with pytest.raises(R1JaxError, match=r"'crop' turned shape \(2, 4, 4, 3\) into \(2, 3, 4, 3\)"):
        crop.apply(0, X)
