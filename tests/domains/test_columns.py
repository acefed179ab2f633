"""Kinds of columns: each rule of the inference, what is said about it, and the way back to the user's own form."""

from __future__ import annotations

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pellucid.core.errors import BadInput
from pellucid.core.run import Noticed
from pellucid.core.settings import from_plain, to_plain
from pellucid.domains.columns import Column, infer
from pellucid.domains.given import as_given, as_written


def text(*values: str) -> pd.DataFrame:
    return pd.DataFrame({"a": list(values)})


def one(
    frame: pd.DataFrame, wanted: str | None = None, typed: bool = False
) -> tuple[pd.Series, Column, dict[str, str]]:
    """The one column of a frame as inferred, and the notices by topic."""
    normal, columns, notices = infer(frame, {"a": wanted} if wanted else None, typed=typed)
    return normal["a"], columns[0], {n.topic: n.text for n in notices}


def arrow(values: list[object], type: pa.DataType) -> pd.arrays.ArrowExtensionArray:
    return pd.arrays.ArrowExtensionArray(pa.array(values, type))


# ------------------------------------------------------------------------------------------------------ kinds of text


@pytest.mark.parametrize(
    ("values", "kind", "dtype"),
    [
        (("1", "2", "-3"), "integer", "int64"),
        (("1", "", "+3"), "integer", "Int64"),
        (("1", "2.5", "3e2"), "number", "float64"),
        (("1.0", "2.", "3.00"), "integer", "int64"),
        ((".5", "1.5", "?"), "number", "float64"),
        (("true", "false", "true"), "boolean", "bool"),
        (("TRUE", "", "FALSE"), "boolean", "boolean"),
        (("True", "false", "true"), "category", "str"),
        (("yes", "no", "no"), "category", "str"),
        (("0", "1", "1"), "integer", "int64"),
        (("red", "blue", "red"), "category", "str"),
        (("2020-01-01", "2021-12-31", "2020-02-29"), "date", "datetime64[us]"),
        (("x", "x", "x"), "constant", "str"),
        (("3", "3", "3"), "constant", "int64"),
        (("", "NA", "?"), "empty", "float64"),
        (("x", "", "x"), "category", "str"),
        (("3", "", "3"), "category", "str"),
        (("2020-13-01", "2020-14-01", "2020-15-01"), "category", "str"),
        (("12%", "15%", "3%"), "category", "str"),
        (("0x10", "1_000", "5"), "category", "str"),
    ],
)
def test_text_is_read_as(values: tuple[str, ...], kind: str, dtype: str) -> None:
    series, column, _ = one(text(*values))
    assert (column.kind, str(series.dtype)) == (kind, dtype)


@pytest.mark.parametrize("typed", [True, False])
def test_numbers_in_text_surprise_only_in_a_data_frame(typed: bool) -> None:
    _, column, said = one(text("1", "2"), typed=typed)
    assert column.kind == "integer"
    assert ("text-numbers" in said) == typed


@pytest.mark.parametrize("token", ["", "NA", "N/A", "n/a", "NaN", "nan", "?", "null", "NULL", "#N/A", ".", " "])
def test_marks_of_missing_values(token: str) -> None:
    series, column, said = one(text("1", token, "2"))
    assert series.isna().tolist() == [False, True, False]
    assert (column.missing, column.distinct, column.missing_as) == (1, 2, token.strip())
    shown = f"'{token}'" if token.strip() else "empty"
    assert said == {"missing": f"1 cell read as missing: 'a' (as {shown})"}


@pytest.mark.parametrize("word", ["None", "-", "unknown", "0"])
def test_answers_are_not_missing_values(word: str) -> None:
    assert one(text("b", word, "c"))[1].missing == 0


def test_missing_cells_are_counted_by_column_and_mark() -> None:
    frame = pd.DataFrame({"a": ["?", "x", "?", "y"], "b": ["1", "NA", "", ""]})
    _, columns, notices = infer(frame, typed=False)
    assert [c.missing_as for c in columns] == ["?", ""]
    assert notices[0] == Noticed(
        topic="missing", count=5, text="5 cells read as missing: 'a' (2, as '?'), 'b' (3, as empty and 'NA')"
    )


def test_leading_zeros_keep_a_column_text() -> None:
    series, column, said = one(text("02139", "12345", "00501"))
    assert column.kind == "category"
    assert series.tolist() == ["02139", "12345", "00501"]
    assert "such as '02139', '00501'" in said["zeros"]
    assert one(text("0", "0.5", "-0.25"))[1].kind == "number"


def test_numbers_too_long_to_hold_stay_text() -> None:
    digits = ("12345678901234567890", "12345678901234567891")
    series, column, said = one(text(*digits))
    assert (column.kind, series.tolist()) == ("category", list(digits))
    assert "long" in said


def test_infinite_values_become_missing_and_are_counted() -> None:
    series, column, said = one(text("1.5", "inf", "-Infinity", "2.5"))
    assert (column.kind, column.missing, column.high) == ("number", 2, 2.5)
    assert series.isna().tolist() == [False, True, True, False]
    assert said["infinite"].startswith("2 values read as missing because they are infinite")


def test_whole_decimals_become_integers_and_are_written_back_with_a_point() -> None:
    frame = text("63.0", "", "1.0", "41.0")
    series, column, said = one(frame)
    assert (column.kind, column.stored, column.format, str(series.dtype)) == ("integer", "number", ".1f", "Int64")
    assert said["whole"].startswith("1 column of decimal numbers that are all whole, read as integers: 'a'")
    assert as_written(series.to_frame(), [column])["a"].tolist() == frame["a"].tolist()
    assert as_given(series.to_frame(), [column])["a"].dtype == float


def test_mixed_types_stay_text_with_counts_and_an_example() -> None:
    _, column, said = one(text("1", "2", "3", "4.5", "n.a."))
    assert column.kind == "category"
    assert said["mixed"] == "1 column of mixed types, kept as text: 'a' (4 numbers, 1 others such as 'n.a.')"


def test_spaces_around_values_are_removed_and_counted() -> None:
    series, _, said = one(text(" x", "x", "y ", "y"))
    assert series.tolist() == ["x", "x", "y", "y"]
    assert said["spaces"].startswith("2 values with spaces around them")


def test_a_decimal_comma_is_understood_unless_it_may_part_thousands() -> None:
    series, column, said = one(text("1,5", "1.234,25", "3"))
    assert (column.kind, series.tolist()) == ("number", [1.5, 1234.25, 3.0])
    assert "decimal comma" in said["comma"]
    assert one(text("1,234", "5,678"))[1].kind == "category"


def test_values_that_hardly_repeat_look_like_identifiers() -> None:
    _, column, said = one(text(*(f"patient {i}" for i in range(60))))
    assert column.kind == "category"
    assert "identifiers or free text" in said["identifier"]
    assert "'a' (60 different)" in said["identifier"]
    assert "identifier" not in one(text(*(f"town {i % 20}" for i in range(60))))[2]
    assert "identifier" in one(text(*(str(i * i) for i in range(60))))[2]


def test_constant_and_empty_columns_are_kept_and_said() -> None:
    frame = pd.DataFrame({"a": ["7.50"] * 3, "b": ["", "NA", "NA"], "c": ["1", "2", "3"]})
    normal, columns, notices = infer(frame, typed=False)
    said = {n.topic: n.text for n in notices}
    assert said["constant"].endswith("'a' (7.50)")
    assert said["empty"] == "1 column without any value, kept empty: 'b'"
    assert columns[0].levels == ("7.50",)
    assert as_written(normal, columns)["a"].tolist() == ["7.50"] * 3
    assert as_given(normal, columns)["a"].tolist() == [7.5] * 3


# ---------------------------------------------------------------------------------------------------------------- dates


@pytest.mark.parametrize(
    ("format", "step"),
    [
        ("%Y-%m-%d", 86400.0),
        ("%Y-%m-%d %H:%M:%S", 60.0),
        ("%Y-%m-%dT%H:%M:%S", 60.0),
        ("%Y-%m-%dT%H:%M:%SZ", 60.0),
        ("%Y-%m-%dT%H:%M:%S+02:00", 60.0),
        ("%Y-%m-%d %H:%M", 60.0),
        ("%Y/%m/%d", 86400.0),
        ("%d.%m.%Y", 86400.0),
        ("%d.%m.%Y %H:%M", 60.0),
        ("%d/%m/%Y", 86400.0),
        ("%m/%d/%Y", 86400.0),
        ("%d-%m-%Y", 86400.0),
        ("%d %b %Y", 86400.0),
        ("%d-%b-%Y", 86400.0),
        ("%B %d, %Y", 86400.0),
        ("%m/%d/%Y %I:%M:%S %p", 60.0),
    ],
)
def test_dates_come_back_in_their_format(format: str, step: float) -> None:
    moments = pd.date_range("2019-11-25 22:17", periods=40, freq="31h7min").strftime(format)
    series, column, said = one(text(*moments, ""))
    assert (column.kind, column.format, column.step, column.missing) == ("date", format, step, 1)
    assert str(series.dtype) == "datetime64[us]"
    assert said["dates"] == f"1 column read as dates: 'a' ({format})"
    assert as_written(series.to_frame(), [column])["a"].tolist() == [*moments, ""]
    assert as_given(series.to_frame(), [column])["a"].tolist()[:40] == list(moments)


def test_days_that_can_be_read_both_ways_are_said() -> None:
    _, column, said = one(text("03/04/2020", "05/06/2020"))
    assert column.format == "%d/%m/%Y"
    assert "date:%m/%d/%Y" in said["ambiguous"]
    series, column, _ = one(text("03/04/2020", "05/06/2020"), "date:%m/%d/%Y")
    assert series.dt.month.tolist() == [3, 5]


def test_dates_among_other_text_stay_text() -> None:
    dates = pd.date_range("2020-01-01", periods=70).strftime("%Y-%m-%d")
    _, column, said = one(text(*dates, "not known"))
    assert column.kind == "category"
    assert "1 others such as 'not known'" in said["mixed"]


def test_several_time_zones_become_one() -> None:
    series, column, said = one(text("2020-01-01T10:00:00+01:00", "2020-01-01T10:00:00Z"))
    assert series.dt.hour.tolist() == [9, 10]
    assert column.format == "%Y-%m-%dT%H:%M:%SZ"
    assert "utc" in said


def test_low_and_high_of_dates_are_seconds() -> None:
    column = one(text("1970-01-02", "1970-01-04"))[1]
    assert (column.low, column.high, column.step) == (86400.0, 3 * 86400.0, 86400.0)


# ------------------------------------------------------------------------------------------------- numbers, closer seen


@pytest.mark.parametrize(
    ("values", "decimals", "format"),
    [
        (("1.50", "2.25", "3.00"), 2, ".2f"),
        (("1.5", "2.25", "3.0"), 2, "r"),
        (("1.5", "2.25", "3"), 2, None),
        (("0.1234567890123", "1.5"), None, "r"),
    ],
)
def test_decimals_come_back(values: tuple[str, ...], decimals: int | None, format: str | None) -> None:
    series, column, _ = one(text(*values, "?"))
    assert (column.kind, column.decimals, column.format) == ("number", decimals, format)
    assert as_written(series.to_frame(), [column])["a"].tolist() == [*values, "?"]


def test_new_numbers_get_the_decimals_of_the_old_ones() -> None:
    _, column, _ = one(text("1.50", "2.25"))
    made = pd.DataFrame({"a": [1.23456]})
    assert as_given(made, [column])["a"].tolist() == [1.23]
    assert as_written(made, [column])["a"].tolist() == ["1.23"]


def test_the_step_of_a_grid() -> None:
    assert one(text(*(str(50 * i + 7) for i in range(30))))[1].step == 50
    assert one(text(*(f"{i / 4}" for i in range(30))))[1].step == 0.25
    assert one(text("10", "20", "30"))[1].step == 1  # too few to tell
    assert one(pd.DataFrame({"a": np.random.default_rng(0).normal(size=30)}))[1].step is None


def test_a_long_tail_shows_in_the_skew() -> None:
    rng = np.random.default_rng(0)
    assert abs(one(pd.DataFrame({"a": rng.normal(size=2000)}))[1].skew or 9) < 0.2
    column = one(pd.DataFrame({"a": rng.lognormal(size=2000)}))[1]
    values = np.random.default_rng(0)
    values.normal(size=2000)
    x = values.lognormal(size=2000)
    assert column.skew == pytest.approx(((x - x.mean()) ** 3).mean() / x.std() ** 3)
    assert one(pd.DataFrame({"a": [1e300, -1e300, 0.5]}))[1].skew is not None


def test_many_categories_are_read_quickly_and_whole() -> None:
    values = [f"word {i % 12_000}" for i in range(60_000)]
    series, column, _ = one(text(*values))
    assert (column.kind, column.distinct, len(column.levels or ())) == ("category", 12_000, 12_000)
    assert series.tolist() == values


def test_levels_are_in_order() -> None:
    assert one(text("b", "a", "c", "a"))[1].levels == ("a", "b", "c")
    assert one(text("10", "9", "2"), "category")[1].levels == ("2", "9", "10")


# ------------------------------------------------------------------------------------------------- columns with a type


@pytest.mark.parametrize(
    ("values", "kind", "stored", "dtype"),
    [
        ([1, 2, 3], "integer", "integer", "int64"),
        (np.array([1, 2, 3], np.uint8), "integer", "integer", "int64"),
        (pd.array([1, None, 3], dtype="Int32"), "integer", "integer", "Int64"),
        ([1.0, np.nan, 3.0], "integer", "number", "Int64"),
        ([1.5, np.nan, 3.0], "number", "number", "float64"),
        (np.array([0.1, 0.2, 0.3], np.float32), "number", "number", "float64"),
        ([True, False, True], "boolean", "boolean", "bool"),
        (pd.array([True, None, False], dtype="boolean"), "boolean", "boolean", "boolean"),
        ([True, None, False], "boolean", "boolean", "boolean"),
        (pd.to_datetime(["2020-01-01", "NaT", "2020-01-03"]), "date", "date", "datetime64[us]"),
        ([datetime.date(2020, 1, 1), None, datetime.date(2020, 1, 3)], "date", "date", "datetime64[us]"),
        ([decimal.Decimal("1.10"), decimal.Decimal("2.25"), None], "number", "number", "float64"),
        (pd.Categorical([3, 1, 3]), "category", "integer", "str"),
        (pd.Categorical(["x", "y", None], categories=["z", "y", "x"]), "category", "text", "str"),
        (["a", None, "b"], "category", "text", "str"),
        ([b"a", b"b", b"a"], "category", "text", "str"),
        (pd.array(["a", "b", None], dtype="string"), "category", "text", "str"),
        (pd.Series(["a", "b", None], dtype=object), "category", "text", "str"),
        ([None, None, None], "empty", "text", "float64"),
        ([np.nan, np.nan, np.nan], "empty", "text", "float64"),
        (pd.period_range("2020-01", periods=3, freq="M"), "date", "date", "datetime64[us]"),
        (pd.to_timedelta([1, 2, 3.5], unit="s"), "number", "number", "float64"),
        ([1, "a", 2.5], "category", "text", "str"),
        ([1, 2, 2**70], "category", "text", "str"),
        (pd.interval_range(0, 3), "category", "text", "str"),
        (pd.Series(["a\ud800", "b", "c"], dtype=object), "category", "text", "str"),
        (pd.array([1.5, None, 2.5], dtype="Float64"), "number", "number", "float64"),
        (np.array([0.1, 0.2, 0.3], np.float16), "number", "number", "float64"),
        (arrow([1, None, 3], pa.int64()), "integer", "integer", "Int64"),
        (
            arrow([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1), None], pa.date32()),
            "date",
            "date",
            "datetime64[us]",
        ),
        (arrow(["a", None, "b"], pa.string()), "category", "text", "str"),
        (arrow([True, None, False], pa.bool_()), "boolean", "boolean", "boolean"),
        (arrow([1, 2, None], pa.decimal128(10, 2)), "integer", "number", "Int64"),
    ],
)
def test_typed_columns(values: object, kind: str, stored: str, dtype: str) -> None:
    series, column, _ = one(pd.DataFrame({"a": values}), typed=True)
    assert (column.kind, column.stored, str(series.dtype)) == (kind, stored, dtype)


def test_typed_columns_come_back_with_their_types() -> None:
    frame = pd.DataFrame(
        {
            "whole": [1.0, np.nan, 3.0],
            "float": [1.25, np.nan, 3.0],
            "flag": [True, False, True],
            "code": pd.Categorical([3, 1, 3]),
            "day": pd.to_datetime(["2020-01-01", "NaT", "2020-01-03"]),
            "seen": [datetime.date(2020, 1, 1), None, datetime.date(2020, 1, 1)],
            "word": ["a", None, "b"],
            "yes": [True, None, True],
        }
    )
    back = as_given(*infer(frame)[:2])
    assert back["whole"].dtype == float
    assert back["code"].tolist() == [3, 1, 3]
    assert back["flag"].tolist() == [True, False, True]
    assert back["yes"].dropna().tolist() == [True, True]
    assert back["seen"].dropna().dt.year.tolist() == [2020, 2020]
    pd.testing.assert_frame_equal(back[["float", "day"]], frame[["float", "day"]], check_dtype=False)
    assert back["word"].isna().tolist() == [False, True, False]


def test_days_of_a_data_frame_are_written_as_days() -> None:
    for moments, format in (("2020-01-01", "%Y-%m-%d"), ("2020-01-01 10:30", "%Y-%m-%d %H:%M:%S")):
        frame = pd.DataFrame({"a": pd.date_range(moments, periods=3)})
        assert one(frame)[1].format == format


def test_numbers_of_32_bits_mean_what_they_show() -> None:
    series, column, _ = one(pd.DataFrame({"a": np.array([0.1, 0.7], np.float32)}))
    assert (series.tolist(), column.decimals) == ([0.1, 0.7], 1)


def test_times_with_a_zone_become_utc() -> None:
    series, _, said = one(pd.DataFrame({"a": pd.to_datetime(["2020-01-01 02:00+02:00", "2020-01-01 03:00+02:00"])}))
    assert series.dt.hour.tolist() == [0, 1]
    assert "utc" in said


def test_mixed_objects_name_their_types() -> None:
    _, column, said = one(pd.DataFrame({"a": [1, "b", 2.5, None]}), typed=True)
    assert (column.kind, column.missing) == ("category", 1)
    assert said["mixed"].endswith("'a' (float, int, str)")


def test_whole_numbers_beyond_64_bits_stay_text() -> None:
    series, column, said = one(pd.DataFrame({"a": np.array([2**64 - 1, 1], np.uint64)}))
    assert (column.kind, series.tolist()) == ("category", [str(2**64 - 1), "1"])
    assert "long" in said


@pytest.mark.parametrize(("value", "word"), [([1, 2], "list"), ({"x": 1}, "dict"), (np.zeros(2), "ndarray")])
def test_nested_cells_are_refused(value: object, word: str) -> None:
    with pytest.raises(BadInput, match=f"column 'a' holds a {word} in a cell"):
        infer(pd.DataFrame({"a": [value, value]}))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="complex"):
        infer(pd.DataFrame({"a": [1j, 2j]}))


def test_no_rows_and_one_row() -> None:
    assert infer(pd.DataFrame({"a": []}))[1][0].kind == "empty"
    assert infer(pd.DataFrame({"a": ["x"]}))[1][0].kind == "constant"


def test_a_second_inference_changes_nothing() -> None:
    frame = pd.DataFrame({"a": ["1.50", "", "2.25"], "b": ["x", "?", "y"], "c": ["2020-01-01", "", "2020-01-03"]})
    once, _, _ = infer(frame, typed=False)
    twice, _, _ = infer(once)
    pd.testing.assert_frame_equal(once, twice)


# ------------------------------------------------------------------------------------------------------------ override


def test_a_number_can_be_a_category_and_keeps_its_zeros() -> None:
    series, column, said = one(text("02139", "10001", "02139"), "category")
    assert (column.kind, column.stored, series.tolist()) == ("category", "text", ["02139", "10001", "02139"])
    assert said["asked"] == "1 column whose kind is as you asked: 'a' (category)"
    series, column, _ = one(pd.DataFrame({"a": [3, 1, 3]}), "category")
    assert (column.stored, series.tolist()) == ("integer", ["3", "1", "3"])
    assert as_given(series.to_frame(), [column])["a"].tolist() == [3, 1, 3]


def test_integers_can_be_numbers_and_whole_numbers_integers() -> None:
    assert one(text("1", "2", "4"), "number")[1].kind == "number"
    assert one(text("007", "012", "1"), "integer")[0].tolist() == [7, 12, 1]
    assert one(text("1.0", "2.0", "4.0"), "integer")[1].kind == "integer"
    assert one(text("1.0", "2.0", "4.0"), "number")[1].kind == "number"


@pytest.mark.parametrize(
    ("values", "first_is_true"),
    [(["1", "0"], True), (["yes", "no"], True), (["f", "t"], False), ([1, 0], True), ([1.0, 0.0], True)],
)
def test_two_values_can_be_a_boolean(values: list[object], first_is_true: bool) -> None:
    frame = pd.DataFrame({"a": [*values, values[0]]})
    series, column, _ = one(frame, "boolean")
    assert (column.kind, bool(series.iloc[0])) == ("boolean", first_is_true)
    assert as_given(series.to_frame(), [column])["a"].tolist() == frame["a"].tolist()


def test_digits_can_be_dates() -> None:
    for frame in (text("20200131", "20191224"), pd.DataFrame({"a": [20200131, 20191224]})):
        series, column, _ = one(frame, "date")
        assert (column.kind, series.dt.day.tolist()) == ("date", [31, 24])


def test_a_column_can_be_dropped() -> None:
    frame = pd.DataFrame({"id": [1, 2], "a": [3, 4]})
    normal, columns, notices = infer(frame, {"id": "drop"})
    assert list(normal.columns) == ["a"] == [c.name for c in columns]
    assert notices[0].text == "1 column left out as you asked: 'id'"


@pytest.mark.parametrize(
    ("values", "wanted", "words"),
    [
        (("1", "two", "3"), "number", "cannot be read as number: 1 of its values are not numbers: 'two'"),
        (("1", "two", "3"), "integer", "cannot be read as integer.*'two'"),
        (("1.5", "2.0"), "integer", "1 of its values are not whole: '1.5'"),
        (("a", "b", "c"), "boolean", "it has 3 different values, a boolean has two: 'a', 'b', 'c'"),
        (("2020-01-01", "soon"), "date", "values do not fit any known format"),
        (("2020-01-01", "soon"), "date:%Y-%m-%d", "1 of its values do not fit its format %Y-%m-%d: 'soon'"),
        (("2020-01-01", "2020-01-02"), "date:%Q", "do not fit"),
        (("a", "b"), "kategory", "'kategory'.*Did you mean 'category'"),
        (("a", "b"), "constant", "the kind of column 'a' is 'constant'"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(values: tuple[str, ...], wanted: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        one(text(*values), wanted)


def test_booleans_are_no_numbers() -> None:
    with pytest.raises(BadInput, match="its values are not numbers"):
        one(pd.DataFrame({"a": [True, False]}), "integer")


def test_an_unknown_column_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BadInput, match="'zipp'.*Did you mean 'zip'"):
        infer(pd.DataFrame({"zip": ["1"], "a": ["2"]}), {"zipp": "category"})


# --------------------------------------------------------------------------------------------------------------- saving


def test_columns_are_saved_as_plain_values() -> None:
    frame = pd.DataFrame({"a": ["1.50", "", "2.25"], "b": ["x", "?", "y"], "c": ["2020-01-01", "", "2020-01-03"]})
    for column in infer(frame, typed=False)[1]:
        assert from_plain(Column, json.loads(json.dumps(to_plain(column)))) == column


def test_a_notice_lists_some_columns_and_counts_the_rest() -> None:
    frame = pd.DataFrame({f"c{i}": ["k", "k"] for i in range(9)})
    text = infer(frame)[2][0].text
    assert text.startswith("9 columns with one value only")
    assert text.endswith("'c5' (k) and 3 more")
