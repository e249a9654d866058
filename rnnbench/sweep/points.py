"""Expands the words of a grid into its points, each a list of ordinary overrides.

Besides Hydra's `key=a,b` a word may be one of these:

    pair=zip(model=lstm,gru; model.hidden_size=48,56)     values that go together, as Hydra plans to have them
    grids=union(model=lstm seed=0,1; model=rnn seed=2)    the points of several grids
    exclude=model=rnn,optim=sgd                           points that are left out
    sweep=NAME                                            the words of the file sweep/NAME.yaml

Hydra's grammar reads none of them, so Hydra is given `pair=choice('zip(...)')` instead: it takes that for a
sweep, and leaves it to the sweeper.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, product
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from rnnbench.config import ConfigError
from rnnbench.config.advice import shown
from rnnbench.config.keys import keys
from rnnbench.config.secrets import check_words
from rnnbench.sweep.hydra_api import IConfigRepository, split_points

if TYPE_CHECKING:
    from rnnbench.sweep.overrides import Checker

Point = tuple[str, ...]  # overrides with one value each

COMBINED = re.compile(r"\s*([^=]*?)\s*=\s*(zip|union)\s*\(")
FOR_HYDRA = re.compile(r"[^=]+=choice\((?=['\"](zip|union)\s*\()|exclude=choice\((?=['\"])|sweep=choice\(")
COMMA_OF_A_KEY = r",(?=\s*[+~]*[\w./@:-]+\s*=)"  # a comma that ends the values of the key before
BLANKS = r"(?<![\s,=])\s+(?![\s,=])"
EXAMPLE = "'pair=zip(model=lstm,gru; model.hidden_size=48,56)'"


def combines(word: str) -> bool:
    """Return whether a word says how the values of a grid go together, as typed or as Hydra is given it."""
    key = word.partition("=")[0]
    return key in ("exclude", "sweep") or bool(COMBINED.match(word) or FOR_HYDRA.match(word))


def names_a_file(word: str) -> bool:
    """Return whether a word takes a sweep from a file: `sweep=NAME`, which needs no -m."""
    return word.startswith("sweep=")


def for_hydra(words: Sequence[str]) -> list[str]:
    """Return the words as Hydra can read them."""
    return [_for_hydra(word) if combines(word) and not FOR_HYDRA.match(word) else word for word in words]


def _for_hydra(word: str) -> str:
    key, _, value = word.partition("=")
    if key == "sweep":
        return word if re.search(r"[,(]", value) else f"{word.replace('=', '=choice(', 1)})"
    return f"{key.strip()}=choice({QuotedString(value.strip(), Quote.single).with_quotes()})"


def as_typed(word: str) -> str:
    """Return a word that `for_hydra` has made as it was before; any other word as it is."""
    if not FOR_HYDRA.match(word):
        return word
    try:
        sweep: Any = OverridesParser.create().parse_override(word).value()
    except HydraException:  # typed like this, by hand
        return word
    return f"{word.partition('=')[0]}={sweep.list[0]}" if len(sweep.list) == 1 else word


def as_words(entries: Sequence[Any]) -> list[Any]:
    """Return the entries of a list, with the lists among them as the grids of one word, a union.

    Raises:
        ConfigError: such a list has an entry that is no word.
    """
    grids = [" ".join(map(_word_of_a_grid, as_words(entry))) for entry in entries if isinstance(entry, list)]
    words = [entry for entry in entries if not isinstance(entry, list)]
    return [*words, f"grids=union({'; '.join(grids)})"] if grids else words


def _word_of_a_grid(entry: Any) -> str:
    """Return an entry of a list that is a grid.

    Raises:
        ConfigError: it is no word, or would be read as several.
    """
    word = _word(entry)
    if _split(word, f";|{BLANKS}") != [word.strip()]:
        raise ConfigError(f"{word}: has blanks or a semicolon; put the value in quotes")
    return word


def _word(entry: Any) -> str:
    if isinstance(entry, str) and "=" in entry:
        return entry
    pairs = ", ".join(f"{key}={value}" for key, value in entry.items()) if isinstance(entry, dict) else ""
    raise ConfigError(f"{entry}: must be an override: {pairs or 'key=value'}")


def words_of_file(name: str, files: IConfigRepository) -> list[str]:
    """Return the words of a file of the group `sweep`.

    Raises:
        ConfigError: it does not hold a list of words.
    """
    file = files.load_config(f"sweep/{name}")
    content: Any = file.config if file is not None else None
    if not isinstance(content, ListConfig) or not content:
        raise ConfigError(f"sweep={name}: its file must be a list of overrides, such as - model=lstm,gru")
    try:
        words = list(map(_word, as_words(cast(list[Any], OmegaConf.to_container(content)))))
    except ConfigError as error:
        raise ConfigError(f"sweep={name}: {error}") from None
    for word in words:
        if names_a_file(word):
            raise ConfigError(f"sweep={name}: names another file; give both, as sweep={name},{word[6:]}")
    return words


class Expansion:
    """Expands words into points.

    Args:
        checker: checks the overrides of which the words consist.
    """

    def __init__(self, checker: "Checker") -> None:
        self.checker = checker

    def expand(self, *sources: Sequence[str]) -> list[Point]:
        """Return the points of a sweep.

        Args:
            sources: words; those of a later source replace words of the same name.

        Raises:
            ConfigError: names the word that cannot be expanded, or has no meaning.
        """
        words = _replaced(*(list(map(as_typed, source)) for source in sources))
        file = words.pop("sweep", None)
        if file is None:
            return self._checked(list(words.values()))
        given = [word for word in words.values() if not word.startswith("exclude=")]
        found: list[Point] = []
        for name in self._values(self.checker.parse(_for_hydra(file))):
            own = words_of_file(name.partition("=")[2], self.checker.groups.files)
            check_words(own)
            for word in self.plain(own):
                _check_no_setting(word)
            found += self._checked(list(_replaced(own, given).values()))
        for word in words.values():
            found = self._without(found, word) if word.startswith("exclude=") else found
        return self.distinct(found, file)

    def _checked(self, words: Sequence[str]) -> list[Point]:
        """Return the points of one grid, whose overrides are checked first."""
        self.checker.check(list(self.plain(words)), several=True)
        return self.points(words)

    def plain(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the ordinary overrides among the words, and inside of them.

        Raises:
            ConfigError: a word cannot be read.
        """
        for word in words:
            if word.startswith("exclude="):
                continue
            if not combines(word):
                yield word
                continue
            _, kind, inside = self._read(word)
            if kind == "union":
                inner = self.plain([each for grid in _split(inside, ";") for each in _split(grid, BLANKS)])
            else:
                inner = iter(_members(inside))
            for each in inner:
                _check_inside(word, each)
                yield each

    def points(self, words: Sequence[str]) -> list[Point]:
        """Return the points of one grid, in the order of Hydra's basic sweeper.

        Raises:
            ConfigError: names the word that cannot be expanded.
        """
        dimensions: dict[str, list[Point]] = {}
        for word in words:
            if word.startswith("exclude="):
                continue
            if combines(word):
                name, kind, inside = self._read(word)
                dimensions[name] = self._rows(word, inside) if kind == "zip" else self._union(word, inside)
            else:
                override = self.checker.parse(word)
                dimensions[_name(word)] = [(value,) for value in self._values(override)]
        _check_keys(dimensions, {self._read(w)[0]: w for w in words if COMBINED.match(w)})
        found = [tuple(chain.from_iterable(parts)) for parts in product(*dimensions.values())]
        for word in words:
            found = self._without(found, word) if word.startswith("exclude=") else found
        return found

    def distinct(self, points: list[Point], word: str) -> list[Point]:
        """Return the points, of which no two are equal.

        Raises:
            ConfigError: names two that are.
        """
        known: dict[frozenset[tuple[str, Any]], Point] = {}
        for point in points:
            before = known.setdefault(frozenset(map(_setting, point)), point)
            if before is not point:
                raise ConfigError(f"{word}: has {' '.join(point)} twice; leave one of the two out")
        return points

    def _read(self, word: str) -> tuple[str, str, str]:
        """Return the name of a combined word, its kind and what its brackets hold."""
        start = COMBINED.match(word)
        if start is None:  # sweep=NAME
            raise ConfigError(f"{word}: cannot stand inside of another word; give it for itself")
        name, kind = start.groups()
        if not word.rstrip().endswith(")"):
            raise ConfigError(f"{word}: ( is not closed; write {shown(word.rstrip() + ')')}")
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in keys() or self.checker.groups.has(name):
            raise ConfigError(
                f"{word}: {kind}(...) needs a name that is no key, before the =; for example {EXAMPLE}"
            )
        return name, kind, word.rstrip()[start.end() : -1]

    def _values(self, override: Override) -> list[str]:
        """Return an override of one value for each of its values."""
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line}: a grid needs values: a,b,c or choice() or range()")
        return [word for (word,) in split_points([override])]

    def _rows(self, word: str, inside: str) -> list[Point]:
        """Return the rows of a zip."""
        members = [self.checker.parse(member) for member in _members(inside)]
        keys = Counter(member.get_key_element() for member in members)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise ConfigError(f"{word}: {twice[0]} is there twice; give its values once")
        if len(members) < 2:
            raise ConfigError(f"{word}: pairs nothing; give at least two keys, such as {EXAMPLE}")
        if mixed := [m for m in members if getattr(m.value(), "shuffle", False)]:
            raise ConfigError(f"{word}: {mixed[0].input_line} has no fixed order, so nothing goes with it")
        columns = [self._values(member) for member in members]
        if len(set(map(len, columns))) > 1:
            counts = ", ".join(f"{key} has {len(c)}" for key, c in zip(keys, columns, strict=True))
            raise ConfigError(f"{word}: needs as many values of each key: {counts}")
        return self.distinct(list(zip(*columns, strict=True)), word)

    def _union(self, word: str, inside: str) -> list[Point]:
        """Return the points of all grids of a union."""
        grids = [self.points(_split(grid, BLANKS)) for grid in _split(inside, ";")]
        if not grids:
            raise ConfigError(
                f"{word}: has no grid; for example 'grids=union(model=lstm seed=0,1; model=rnn)'"
            )
        return self.distinct(list(chain.from_iterable(grids)), word)

    def _without(self, points: list[Point], word: str) -> list[Point]:
        """Return the points that an `exclude` leaves."""
        there = {_setting(each) for point in points for each in point}
        unwanted: dict[str, set[Any]] = {}
        for part in _split(word.partition("=")[2], COMMA_OF_A_KEY):
            if "=" not in part:
                raise ConfigError(f"{word}: write 'exclude=model=rnn,optim=sgd': keys with their values")
            for value in self._values(self.checker.parse(part)):
                key, held = _setting(value)
                if (key, held) not in there:
                    raise ConfigError(f"{word}: excludes nothing with {value}, which no point has")
                unwanted.setdefault(key, set()).add(held)
        given = [dict(map(_setting, point)) for point in points]
        left = [
            point
            for point, values in zip(points, given, strict=True)
            if not all(key in values and values[key] in held for key, held in unwanted.items())
        ]
        if len(left) == len(points):
            raise ConfigError(f"{word}: excludes nothing, since no point has all of it; leave it out")
        if not left:
            raise ConfigError(f"{word}: excludes all points; name more keys, or leave it out")
        return left


def _setting(word: str) -> tuple[str, str | int | float]:
    """Return the key and the value of an override; numbers are equal however they are written."""
    key, _, value = word.partition("=")
    for kind in (int, float):
        with suppress(ValueError):
            return key.lstrip("+"), kind(value)
    return key.lstrip("+"), value


def _replaced(*sources: Sequence[str]) -> dict[str, str]:
    """Return the words of several sources by name, a later source's in the place of an earlier one's.

    Raises:
        ConfigError: a source has two combined words of one name.
    """
    words: dict[str, str] = {}
    for source in sources:
        names = {word: _name(word) for word in source}
        named = Counter(names[word] for word in source if combines(word) and not word.startswith("exclude="))
        for word in source:
            if named[names[word]] > 1:
                advice = "sweep=a,b takes both" if names_a_file(word) else "give each a name of its own"
                raise ConfigError(f"{word}: {names[word]}= is there twice; {advice}")
        words |= {name: word for word, name in names.items()}
    return words


def _name(word: str) -> str:
    """Return the name of a word, whose place a later word of the same name takes.

    A mapping, as in `data={folds: 5}`, adds to a section, and takes the place of no option or mapping.
    """
    key, _, value = word.partition("=")
    return word if key == "exclude" or value.lstrip().startswith("{") else key.strip()


def _members(inside: str) -> list[str]:
    """Return the members of a zip as overrides; a list is its values, as Hydra plans it."""
    members = []
    for member in _split(inside, f";|{COMMA_OF_A_KEY}"):
        key, equals, value = (part.strip() for part in member.partition("="))
        if value.startswith("[") and re.fullmatch("_+", _masked(value)):
            value = value[1:-1]
        members.append(f"{key}{equals}{','.join(_split(value, ','))}")
    return members


def _check_keys(dimensions: Mapping[str, Sequence[Point]], combined: Mapping[str, str]) -> None:
    """Refuse a key that two words set, one of which combines values.

    Raises:
        ConfigError: names the key and the words.
    """
    owner: dict[str, str] = {}  # name of a dimension by key
    for name, points in dimensions.items():
        for key in {word.partition("=")[0].lstrip("+~") for point in points for word in point}:
            other = owner.setdefault(key, name)
            if other != name and (found := combined.get(name) or combined.get(other)):
                raise ConfigError(f"{found}: another word sets {key} too; leave one of the two out")


def _check_inside(word: str, each: str) -> None:
    """Refuse a part of a word that is no override of a trial.

    Raises:
        ConfigError: names both.
    """
    if combines(each) or not re.match(r"[+~]*[\w./@:-]+=|~", each):
        raise ConfigError(f"{word}: {each} is not key=values; for example {EXAMPLE}")
    _check_no_setting(each)


def _check_no_setting(word: str) -> None:
    """Refuse a setting of Hydra's where only overrides of trials may stand."""
    if re.match(r"[+~]*hydra[./]", word):
        raise ConfigError(f"{word}: is of the whole sweep; give it on the command line, for itself")


def _split(text: str, pattern: str) -> list[str]:
    """Split a text where a pattern is outside of quotes and brackets; return the parts that are not empty."""
    cuts = [match.span() for match in re.finditer(pattern, _masked(text))]
    ends = [0, *chain.from_iterable(cuts), len(text)]
    parts = (text[first:last].strip() for first, last in zip(ends[::2], ends[1::2], strict=True))
    return [part for part in parts if part]


def _masked(text: str) -> str:
    """Return a text with quoted and bracketed parts replaced by as many underscores."""
    quoted = r"\\.|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
    text = re.sub(quoted, lambda match: "_" * len(match[0]), text, flags=re.DOTALL)
    before = ""
    while text != before:
        before = text
        text = re.sub(
            r"\([^][(){}]*\)|\[[^][(){}]*\]|\{[^][(){}]*\}", lambda match: "_" * len(match[0]), text
        )
    return text
