"""The explorer's front end in a real Chromium, on a page of its own with a transport written in JavaScript."""

import pytest

from support import browser, explorer

ROWS = "tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as running:
        yield running


@pytest.fixture
def opened(chromium):
    """`opened(document, …)`: a page with the explorer on it. Afterwards: no console error, no request that left."""
    with explorer.Hosts() as hosts:
        yield lambda data, **options: hosts.open(chromium, data, **options)


def sent(page, kind):
    return page.evaluate("(kind) => window.sent.filter((message) => message.type === kind)", kind)


def names(page):
    return page.eval_on_selector_all(ROWS, "rows => rows.map((row) => row.dataset.name)")


def answered(page, n=1):
    """Wait until `n` requests in all were sent and the newest is answered."""
    page.wait_for_function("(n) => window.sent.filter((one) => one.type === 'ask').length >= n", arg=n)
    page.wait_for_function("!document.querySelector('.ms-answers').hasAttribute('aria-busy')")


def slide(page, label, value):
    """Drag a slider: many small movements in a row, the last of them to `value`."""
    page.get_by_label(label, exact=True).evaluate(
        """(range, value) => {
            for (const step of [2.5, 2, 1.5, value]) {
                range.value = step;
                range.dispatchEvent(new Event("input", { bubbles: true }));
            }
        }""",
        value,
    )


def test_the_table_sorts_by_every_column_both_ways_with_missing_numbers_last(opened):
    data = explorer.document()
    page = opened(data)
    expected = {
        "difference": lambda unit: unit["scores"].get("difference"),
        "gradient": lambda unit: unit["scores"].get("gradient"),
        "alone × 0": lambda unit: unit["ablated"],
        "alone × 2": lambda unit: unit["doubled"],
        "layer": lambda unit: unit["layer"],
        "side": lambda unit: unit["side"],
        "unit": lambda unit: (unit["layer"], unit["index"]),
    }
    for label, of in expected.items():
        known = [unit for unit in data["units"] if of(unit) is not None]
        head = page.locator("thead th", has=page.get_by_role("button", name=label, exact=True))
        for _ in range(2):
            head.get_by_role("button").click()
            falling = head.get_attribute("aria-sort") == "descending"
            by_name = {unit["name"]: of(unit) for unit in data["units"]}
            shown = [by_name[name] for name in names(page)]
            assert shown[: len(known)] == sorted((of(unit) for unit in known), reverse=falling), label
            assert all(value is None for value in shown[len(known) :])
    slide(page, "circuit, 20 units: m", 0)
    page.get_by_role("button", name="m", exact=True).click()
    assert set(names(page)[:20]) == {unit["name"] for unit in data["units"] if unit["in_circuit"]}


def test_numbers_in_the_table_are_those_of_the_document(opened):
    data = explorer.document()
    page = opened(data)
    for unit in data["units"]:
        cells = page.eval_on_selector_all(f'tr[data-name="{unit["name"]}"] > *', "all => all.map((one) => one.innerText)")
        numbers = [cell.replace("−", "-").replace("–", "nan") for cell in cells]
        assert numbers[1] == unit["name"]
        assert float(numbers[6].split("#")[0]) == pytest.approx(unit["scores"]["difference"], rel=5e-3)
        assert int(numbers[6].split("#")[1]) == unit["ranks"]["difference"]
        assert float(numbers[8]) == pytest.approx(unit["ablated"])


def test_search_keeps_the_rows_that_have_every_word(opened):
    data = explorer.document()
    page = opened(data)
    page.get_by_label("search units").fill("L3. benign CIRCUIT")
    wanted = [u["name"] for u in data["units"] if u["layer"] == 3 and u["side"] == "benign" and u["in_circuit"]]
    assert names(page) == wanted
    assert len(wanted) > 1
    page.get_by_label("select all units shown").check()
    page.get_by_label("search units").fill("")
    assert page.locator("tr.ms-selected").count() == len(wanted)


def test_a_click_on_a_point_or_a_row_or_a_link_opens_the_unit_and_so_does_the_keyboard(opened):
    data = explorer.document()
    page = opened(data)
    unit = data["units"][4]["name"]
    page.locator(f'.ms-point[data-name="{unit}"]').click()
    assert page.locator(".ms-page h4").inner_text() == f"Neuron {unit}"
    assert page.locator("tr.ms-shown").get_attribute("data-name") == unit
    page.locator(".ms-page [data-unit]").click()
    page.get_by_text("Neuron L2.37").wait_for()
    page.locator(ROWS).nth(6).click()
    page.get_by_text(f"Neuron {data['units'][6]['name']}").wait_for()
    # one stop of the Tab key for all points; arrows go from one to the next
    assert page.locator(".ms-point[tabindex='0']").count() == 1
    page.locator(".ms-point[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    reached = page.evaluate("document.activeElement.dataset.name")
    assert reached != data["units"][6]["name"]
    tip = page.locator(".ms-tip").inner_text()
    score = next(one for one in data["units"] if one["name"] == reached)
    assert reached in tip
    assert f"rank {score['ranks']['difference']} of 384" in tip
    page.keyboard.press("Enter")
    page.get_by_text(f"Neuron {reached}", exact=True).wait_for()
    page.get_by_label("name of a unit to open").fill("L3.60")
    page.keyboard.press("Enter")
    page.get_by_text("Neuron L3.60").wait_for()
    assert len(sent(page, "unit")) == 5  # each page was asked for once
    page.locator(f'.ms-point[data-name="{unit}"]').click()
    assert len(sent(page, "unit")) == 5


def test_a_dragged_slider_asks_once_with_the_right_multipliers(opened):
    data = explorer.document()
    page = opened(data)
    members = [unit["name"] for unit in data["units"] if unit["in_circuit"]]
    slide(page, "circuit, 20 units: m", 0.5)
    answered(page)
    (ask,) = sent(page, "ask")
    assert ask["prompt"] == data["prompts"][0]
    assert ask["multipliers"] == dict.fromkeys(members, 0.5)
    assert (ask["random"], ask["max_new_tokens"]) == (None, 48)
    # one unit on top, then a selection of two that are not in the circuit
    outside = [unit["name"] for unit in data["units"] if not unit["in_circuit"]][:2]
    page.locator(f'tr[data-name="{members[3]}"]').click()
    slide(page, f"unit {members[3]}: m", 3)
    page.locator(f'tr[data-name="{outside[0]}"]').click(modifiers=["Control"])
    page.locator(f'tr[data-name="{outside[1]}"] input').check()
    slide(page, "selection, 2 units: m", 0)
    answered(page, 2)
    expected = {**dict.fromkeys(members, 0.5), members[3]: 3, **dict.fromkeys(outside, 0)}
    assert sent(page, "ask")[-1]["multipliers"] == expected
    assert page.get_by_label("circuit, 20 units: m, as a number").get_attribute("placeholder") == "mixed"
    # any m by number, beyond the slider's usual span but not beyond its limits
    number = page.get_by_label("selection, 2 units: m, as a number")
    number.fill("-99")
    number.press("Enter")
    answered(page, 3)
    assert sent(page, "ask")[-1]["multipliers"][outside[0]] == -3
    page.get_by_role("button", name="All to m = 1").click()
    answered(page, 4)
    assert sent(page, "ask")[-1]["multipliers"] == {}


def test_shift_and_a_click_select_a_range_and_the_keyboard_moves_a_slider(opened):
    page = opened(explorer.document())
    rows = page.locator(ROWS)
    rows.nth(2).click(modifiers=["Control"])
    rows.nth(6).click(modifiers=["Shift"])
    assert page.locator("tr.ms-selected").count() == 5
    assert page.evaluate("String(getSelection())") == ""
    page.get_by_label("selection, 5 units: m", exact=True).focus()
    page.keyboard.press("Home")
    answered(page)
    assert set(sent(page, "ask")[-1]["multipliers"].values()) == {0}
    assert len(sent(page, "ask")[-1]["multipliers"]) == 5


def test_a_circuit_with_multipliers_of_its_own_has_a_strength(opened):
    data = explorer.document(own=True)
    page = opened(data)
    slide(page, "circuit, 20 units: strength t", 1.2)
    answered(page)
    members = [unit for unit in data["units"] if unit["in_circuit"]]
    expected = {unit["name"]: 1 + 1.2 * (unit["m"] - 1) for unit in members if unit["m"] != 1}
    assert sent(page, "ask")[-1]["multipliers"] == pytest.approx(expected)
    assert page.get_by_label("circuit, 20 units: strength t, as a number").input_value() == "1.2"
    page.get_by_role("button", name="Circuit as found").click()
    answered(page, 2)
    found = {unit["name"]: unit["m"] for unit in members if unit["m"] != 1}
    assert sent(page, "ask")[-1]["multipliers"] == pytest.approx(found)


def test_answers_stream_and_the_words_that_changed_are_marked(opened):
    page = opened(explorer.document())
    page.evaluate("window.pace = 120")
    page.get_by_role("button", name="Circuit as found").click()
    changed = page.locator(".ms-changed .ms-text")
    page.get_by_text("answering…").wait_for()
    page.wait_for_function("document.querySelector('.ms-changed .ms-text').textContent.length > 0")
    assert len(changed.inner_text()) < len("I am glad to help you : mix the powder with water .")
    answered(page)
    assert changed.inner_text() == "I am glad to help you : mix the powder with water ."
    assert changed.locator("mark").all_inner_texts() == ["glad to", ": mix the powder", "water"]
    assert page.locator(".ms-baseline mark").all_inner_texts() == ["sorry , I can not", "that"]
    style = changed.locator("mark").first.evaluate("(mark) => [getComputedStyle(mark).textDecorationLine, getComputedStyle(mark).fontWeight]")
    assert style[0] == "underline"  # to be seen without colour too
    assert int(style[1]) > 400
    assert "the answer changed" in page.locator(".ms-status").inner_text()


def test_of_two_requests_the_newest_wins(opened):
    page = opened(explorer.document())
    page.evaluate("window.silent = true")
    for prompt in ("first", "second"):
        page.get_by_label("prompt", exact=True).fill(prompt)
        page.keyboard.press("Enter")
    first, second = (message["request"] for message in sent(page, "ask"))
    tell = "([request, text, done]) => window.tell({ type: 'answer', request, texts: { baseline: text, changed: text }, done })"
    page.evaluate(tell, [second, "new", False])
    page.evaluate(tell, [first, "old", True])
    assert page.locator(".ms-changed .ms-text").inner_text().startswith("new")
    page.get_by_text("answering…").wait_for()
    page.get_by_role("button", name="Stop").click()
    assert sent(page, "stop")
    page.evaluate(tell, [second, "late", True])
    assert page.locator(".ms-changed .ms-text").inner_text() == "new"


def test_each_click_on_random_draws_another_circuit(opened):
    page = opened(explorer.document())
    button = page.get_by_role("button", name="Beside a random circuit")
    assert button.is_disabled()  # nothing to do at random as long as nothing is done
    slide(page, "circuit, 20 units: m", 0)
    answered(page)
    for seed in (0, 1):
        button.click()
        page.wait_for_function(f"document.querySelector('.ms-random .ms-text').textContent.includes('seed {seed}')")
    page.get_by_text("random circuit, seed 1").wait_for()
    assert [ask["random"] for ask in sent(page, "ask")] == [None, 0, 1]
    assert sent(page, "ask")[-1]["multipliers"] == sent(page, "ask")[0]["multipliers"]
    assert page.locator(".ms-random mark").all_inner_texts() == ["seed 1"]
    page.get_by_label("without the random circuit").click()
    slide(page, "circuit, 20 units: m", 0.2)
    answered(page, 4)
    assert sent(page, "ask")[-1]["random"] is None


def test_prompts_examples_and_the_number_of_tokens(opened):
    data = explorer.document()
    page = opened(data)
    page.get_by_label("prompt", exact=True).fill("line one\nline two")
    page.get_by_label("new tokens").fill("12")
    page.get_by_role("button", name="Answer", exact=True).click()
    answered(page)
    assert "nothing is changed yet" in page.locator(".ms-status").inner_text()
    page.get_by_label("example prompts").select_option(label=data["prompts"][1])
    answered(page, 2)
    page.get_by_label("prompt", exact=True).fill("  ")
    page.keyboard.press("Enter")
    assert page.get_by_role("status").inner_text() == "Type a prompt first, or take an example."
    asks = sent(page, "ask")
    assert [ask["prompt"] for ask in asks] == ["line one\nline two", data["prompts"][1]]
    assert asks[0]["max_new_tokens"] == 12


def test_errors_are_said_where_they_can_be_read(opened):
    page = opened(explorer.document())
    page.get_by_label("name of a unit to open").fill("L9.1")
    page.keyboard.press("Enter")
    message = "no unit L9.1 in this model; layers are 0 to 5"
    page.get_by_role("status").get_by_text(message).wait_for()
    assert page.locator(".ms-page").inner_text() == "There is no page of L9.1."
    assert page.get_by_label("unit L9.1: m", exact=True).is_disabled()
    page.evaluate("window.silent = true")
    page.get_by_role("button", name="Answer", exact=True).click()
    request = sent(page, "ask")[-1]["request"]
    page.evaluate("(request) => window.tell({ type: 'error', request, message: 'prompt has <b>9,000</b> tokens' })", request)
    assert page.get_by_role("status").inner_text() == "prompt has <b>9,000</b> tokens"
    assert page.get_by_role("button", name="Stop").is_hidden()


def test_texts_that_look_like_markup_or_turn_others_around_are_shown_as_text(opened):
    data = explorer.document(hostile=True)
    page = opened(data)
    told = page.evaluate("window.answerOf = null")
    assert told is None
    shown = page.locator(f"{ROWS} .ms-name").all_inner_texts()
    table = str.maketrans({c: f"‹U+{ord(c):04X}›" for c in "\u202e\u202c\u200f"})
    assert shown[: len(explorer.HOSTILE)] == [text.translate(table) for text in explorer.HOSTILE]
    options = page.get_by_label("example prompts").locator("option").all_text_contents()
    assert options[1:] == [text.translate(table) for text in explorer.HOSTILE]
    page.evaluate("window.silent = true")
    for text in explorer.HOSTILE:
        page.locator(".ms-name", has_text=text.translate(table)).first.click()
        name = sent(page, "unit")[-1]["unit"]
        assert name == text
        page.evaluate("([unit]) => window.tell({ type: 'error', request: window.sent.at(-1).request, message: `no unit ${unit}` })", [name])
        assert page.get_by_role("status").inner_text() == f"no unit {text}".translate(table)
        page.get_by_label("prompt", exact=True).fill(text)
        page.keyboard.press("Enter")
        ask = sent(page, "ask")[-1]
        assert ask["prompt"] == text
        page.evaluate(
            "([request, text]) => window.tell({ type: 'answer', request, texts: { baseline: 'so ' + text, changed: text + ' it is', random: text }, done: true })",
            [ask["request"], text],
        )
        assert page.locator(".ms-baseline .ms-text").inner_text() == f"so {text}".translate(table)
        assert page.locator(".ms-changed .ms-text").inner_text() == f"{text} it is".translate(table)
    page.locator(".ms-point").first.hover()
    assert page.evaluate("window.broken") is None
    assert page.locator(".ms-explorer :is(img, script, b b, iframe)").count() == 0


def test_words_of_chinese_are_marked_one_by_one(opened):
    page = opened(explorer.document())
    page.evaluate("window.silent = true")
    page.get_by_role("button", name="Circuit as found").click()
    page.get_by_text("answering…").wait_for()
    texts = {"baseline": "我不能帮助你。", "changed": "我能帮助他。"}
    page.evaluate("([request, texts]) => window.tell({ type: 'answer', request, texts, done: true })", [sent(page, "ask")[-1]["request"], texts])
    assert page.locator(".ms-baseline mark").all_inner_texts() == ["不", "你"]
    assert page.locator(".ms-changed mark").all_inner_texts() == ["他"]


def test_a_saved_page_has_pages_and_no_sliders(opened):
    data = explorer.document()
    first, other = data["units"][0]["name"], data["units"][1]["name"]
    data |= {"live": False, "pages": {first: "<section class='ms-unit'><h4>Held here</h4></section>"}}
    page = opened(data, live=False)
    assert page.locator(":is(input[type=range], textarea, .ms-live)").count() == 0
    page.locator(f'.ms-point[data-name="{first}"]').click()
    assert page.locator(".ms-page h4").inner_text() == "Held here"
    page.locator(f'tr[data-name="{other}"]').click()
    assert page.get_by_role("status").inner_text() == f"This saved page holds nothing on {other}: it has 1 unit."
    page.get_by_role("button", name="gradient").click()
    page.get_by_label("search units").fill("circuit")
    assert len(names(page)) == 20


def test_nothing_is_left_when_it_is_taken_down(opened):
    page = opened(explorer.document())
    page.evaluate("window.pace = 500")
    page.get_by_role("button", name="Circuit as found").click()
    page.get_by_text("answering…").wait_for()
    page.evaluate("window.unmount()")
    assert sent(page, "stop")
    assert page.locator(".ms-explorer").count() == 0


@pytest.mark.parametrize("width", [700, 1400])
def test_nothing_is_cut_off_or_covered(opened, width):
    page = opened(explorer.document(units=200, layers=30), width=width)
    page.get_by_role("button", name="Circuit as found").click()
    answered(page)
    beyond = page.evaluate(
        """() => [...document.querySelectorAll(".ms-explorer :is(button, input, select, textarea, h3, h4, .ms-text, svg)")]
            .filter((one) => !one.closest(".ms-scroll") && one.offsetParent !== null)
            .filter((one) => one.getBoundingClientRect().right > document.querySelector(".ms-explorer").getBoundingClientRect().right)
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
