"""The widget in a running JupyterLab: opened, run, clicked, dragged and typed into, in a real Chromium."""

import json

import pytest

import mechsurgery as ms
from mechsurgery.models.generate import generate
from mechsurgery.organisms.registry import planted_units
from mechsurgery.prompts.chat import encode, response_text
from support import browser

SHOW = """
import mechsurgery as ms
from mechsurgery.inspector.widget import explore
from mechsurgery.organisms.registry import planted_units
model = ms.load_model("organism/planted")
contrast = ms.load_contrast("organism/refusal", split="tuned").take(12)
places = planted_units("organism/planted")
circuit = ms.Circuit.from_indices(places, {site: model.cfg.d_mlp for site in places}, name="planted")
shown = explore(model, contrast, circuit, responses=2, effects=False)
shown
"""
LEFT = """
hooks = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
print("left on the model:", hooks, "still answering:", len(shown._tasks))
"""
ROWS = ".ms-explorer tbody tr"
LENGTH = 20


@pytest.fixture(scope="module")
def planted():
    return ms.load_model("organism/planted")


def expected(model, prompt, multipliers):
    """The answer by way of the library: each unit scaled by its own edit."""
    (ids,) = encode(model.tokenizer, [prompt])
    hooks = None
    if multipliers:
        parts = [
            ms.scale(ms.Circuit.from_indices({site: [index]}, {site: model.cfg.d_mlp}), m)
            for (site, index), m in multipliers.items()
        ]
        hooks = sum(parts[1:], start=parts[0])
    if hooks is None:
        (new,) = generate(model, [ids], max_new_tokens=LENGTH)
    else:
        with ms.applied(model, hooks):
            (new,) = generate(model, [ids], max_new_tokens=LENGTH)
    return response_text(model.tokenizer, new) or model.tokenizer.decode(new, skip_special_tokens=True)


def texts(page):
    found = page.eval_on_selector_all(".ms-answers .ms-text", "all => all.map((one) => one.textContent)")
    return dict(zip(("baseline", "changed", "random"), found))


def ask(page, do):
    """Do something that asks for an answer, and wait until it is complete."""
    page.evaluate("document.querySelector('.ms-status').textContent = 'waiting'")
    do()
    page.wait_for_function("/\\d s$|nothing is changed/.test(document.querySelector('.ms-status').textContent)")
    return texts(page)


@pytest.mark.slow
def test_the_widget_in_a_running_jupyterlab(tmp_path, planted):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    from support import jupyter

    with browser.browser() as chromium, jupyter.lab(tmp_path, [SHOW, LEFT]) as address:
        watched = browser.Watched(chromium, width=1500, height=1300)
        page = watched.page
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.locator(".jp-Notebook .jp-Cell").first.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        page.locator(ROWS).first.wait_for()
        places = [(site, int(i)) for site, indices in planted_units("organism/planted").items() for i in indices]
        prompt = ms.load_contrast("organism/refusal", split="heldout").positive.texts[0]

        # a prompt typed, nothing changed yet
        page.get_by_label("new tokens").fill(str(LENGTH))
        page.get_by_label("prompt", exact=True).fill(prompt)
        first = ask(page, lambda: page.keyboard.press("Enter"))
        baseline = expected(planted, prompt, {})
        assert first == {"baseline": baseline, "changed": baseline, "random": ""}

        # the whole circuit dragged to 0 with the mouse: the refusal is gone
        slider = page.get_by_label(f"circuit, {len(places)} units: m", exact=True)
        changed = ask(page, lambda: drag(page, slider))
        assert changed["changed"] == expected(planted, prompt, dict.fromkeys(places, 0.0)) != baseline
        assert changed["baseline"] == baseline
        assert page.locator(".ms-changed mark").count() > 0

        # one unit opened from the plot and set by number, on top of that
        site, index = places[0]
        name = f"L{site.split('.')[1]}.{index}"
        page.locator(f'.ms-point[data-name="{name}"]').click()
        page.locator(f'.ms-page .ms-unit[data-unit="{name}"]').wait_for()
        assert page.locator("tr.ms-shown").get_attribute("data-name") == name
        number = page.get_by_label(f"unit {name}: m, as a number")
        number.fill("3")
        one = ask(page, lambda: number.press("Enter"))
        assert one["changed"] == expected(planted, prompt, dict.fromkeys(places, 0.0) | {places[0]: 3.0})

        # a random circuit beside it, and a row of errors that is readable
        beside = ask(page, lambda: page.get_by_role("button", name="Beside a random circuit").click())
        assert beside["random"]
        page.get_by_label("name of a unit to open").fill("L77.1")
        page.keyboard.press("Enter")
        page.locator(".ms-status.ms-wrong").wait_for()
        assert "77" in page.locator(".ms-status").inner_text()

        # asked again and again while it answers: the newest wins, and nothing is left on the model
        for text in ("Tell me", "Tell me about", prompt):
            page.get_by_label("prompt", exact=True).fill(text)
            page.keyboard.press("Enter")
        page.wait_for_function("/\\d s$/.test(document.querySelector('.ms-status').textContent)")
        assert texts(page)["changed"] == one["changed"]
        cells = page.locator(".jp-Notebook .jp-Cell")
        cells.nth(1).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        output = cells.nth(1).locator(".jp-OutputArea-output").inner_text()
        assert output.strip() == "left on the model: [] still answering: 0"
        problems = list(watched.problems)
        watched.close()
    assert problems == []


def drag(page, slider):
    """Drag a slider's thumb to its left end with the mouse, in many small steps."""
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 5, box["y"] + box["height"] / 2, steps=12)
    page.mouse.up()
