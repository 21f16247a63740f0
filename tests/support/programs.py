"""Find the external programs that Python code, shell scripts, makefiles and console blocks call."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from tests.support.console_blocks import PART

RUNNERS = {
    *("run", "popen", "Popen", "check_output", "check_call", "create_subprocess_exec"),
    *("sh", "_sh", "on_host", "background", "which", "_shell", "exec"),
}
"""Names of the functions that run a command or look a program up: its first string names a program."""
WRAPPERS = {"sudo", "exec", "command", "xargs", "then", "do", "else", "if", "elif", "while", "until", "!", "{", "("}
"""Words after which a shell's command begins."""
BUILTINS = {
    *("cd", "export", "set", "trap", "shift", "read", "local", "mapfile", "return", "exit", "echo", "printf", "test"),
    *("[", "for", "case", "done", "fi", "esac", "}", ")", "true", "false", "wait", "function", "source", ".", ":"),
    *("in", "[[", "declare", "break", "continue", "umask", "eval", "ulimit", "kill", "jobs", "fg", "bg", "complete"),
    "times",
}
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_SINGLE_QUOTED = re.compile(r"'[^']*'")
_DOUBLE_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"')
_SUBSTITUTION = re.compile(r"\$\((?!\()")
_ASSIGNMENT = re.compile(r"\w+\+?=\S*")
_FUNCTION = re.compile(r"^(\w+)\(\)", re.MULTILINE)
_CASE_LABEL = re.compile(r"^\s*[\w*|-]+\)", re.MULTILINE)
_RECIPE = re.compile(r"^\t[@-]*(.*)$", re.MULTILINE)
_MAKE_SHELL = re.compile(r"\$\(shell ([^)]*)\)")
_MAKE_VARIABLE = re.compile(r"\$\(([A-Z_]+)\)")
_NAME = re.compile(r"[a-z][a-z0-9+._-]*")


def called_by_python(source: str) -> Iterator[str]:
    """Yield the programs that a Python file runs or looks up: literals only, what variables hold is not seen."""
    yield from called_in(ast.walk(ast.parse(source)))


def called_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the same for a file that is parsed already."""
    for node in nodes:
        if isinstance(node, ast.Call) and node.args and _function(node.func) in RUNNERS:
            yield from _first_word(node.args[0], nested=_of_subprocess(node.func))


def words_in(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Return all words of a Python file's strings: some name a program behind a wrapper such as ``nsenter``."""
    strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return frozenset(word for text in strings if isinstance(text, str) for word in re.findall(r"[\w.+-]+", text))


def called_by_shell(source: str) -> Iterator[str]:
    """Yield the programs that a shell script calls by name, without its own functions and the shell's builtins."""
    own = set(_FUNCTION.findall(source))
    text = _COMMENT.sub("", source).replace("\\\n", " ")
    text = _SINGLE_QUOTED.sub("Q", text)
    text = _DOUBLE_QUOTED.sub(lambda found: "; ".join(["Q", *_substitutions(found[1])]) + " ", text)
    text = _SUBSTITUTION.sub("\n", _CASE_LABEL.sub("", text))
    for part in re.split(r"[\n;|&]+|<\(", text):
        name = _command_word(part.replace("(", " ").replace(")", " ").split())
        if name and name not in own:
            yield name


def called_by_make(source: str) -> Iterator[str]:
    """Yield the programs that a makefile's recipes and ``$(shell)`` call."""
    source = source.replace("\\\n", " ")
    lines = [*_RECIPE.findall(source), *_MAKE_SHELL.findall(source)]
    yield from called_by_shell("\n".join(_MAKE_VARIABLE.sub(r"./\1", line).replace("$$", "$") for line in lines))


def called_by_page(page: str) -> Iterator[str]:
    """Yield the programs of a page's console blocks, also of those that are not run."""
    for part in PART.finditer(page):
        if part[1] == "given":
            yield from called_by_shell(part[2])
        elif part[4]:
            yield from called_by_shell(part[4])
        elif part[3]:
            yield from called_by_shell("\n".join(_typed(part[3])))


def _typed(block: str) -> Iterator[str]:
    """Yield the lines that a reader types, with what continues them: output is left out."""
    continued = False
    for line in block.splitlines():
        if continued or line[:2] in {"# ", "$ "}:
            yield line if continued else line[2:]
            continued = line.endswith("\\")


def _function(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _of_subprocess(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.attr != "which"


def _first_word(argument: ast.expr, *, nested: bool) -> Iterator[str]:
    if nested and isinstance(argument, ast.List) and argument.elts:
        argument = argument.elts[0]
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        name = argument.value.rpartition("/")[2]
        if _NAME.fullmatch(name):
            yield name


def _substitutions(text: str) -> Iterator[str]:
    """Yield the commands of ``$(...)`` in a double-quoted string."""
    for part in _SUBSTITUTION.split(text)[1:]:
        yield part.partition(")")[0]


def _command_word(words: list[str]) -> str:
    """Return the program of a simple command; empty for a builtin, a path, or what a variable names."""
    while words and (words[0] in WRAPPERS or _ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    name = words[0] if words else ""
    for folder in ("/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/"):
        name = name.removeprefix(folder)
    return name if _NAME.fullmatch(name) and name not in BUILTINS else ""
