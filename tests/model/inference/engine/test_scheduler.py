"""What a step reads: the budget, ranks, requests that give way, shared pages, and pages before a window."""

from model.inference.engine.page_pool import NO_PAGE, PagePool
from model.inference.engine.scheduler import Scheduler, pages_of_window
from model.inference.engine.sequence import ON_DEVICE, Sequence
from model.inference.request import Request, TokenScore
from model.inference.sampling import Sampling


def scheduler_of(pages=8, rows=2, budget=6, reaches=(None,), shares=True):
    return Scheduler(rows, budget, 2, [PagePool(pages) for _ in reaches], list(reaches), shares=shares)


def add(scheduler, number, length, priority=0, head=0, **fields):
    prompt = tuple(range(head, head + length))
    request = Request(prompt=prompt, sampling=Sampling(max_tokens=20), priority=priority, **fields)
    text = Sequence(number, request, 20, "max_tokens", list(request.prompt), [[] for _ in scheduler.pools])
    scheduler.add(text)
    return text


def step(scheduler):
    """Runs a step without a model: every decoding request gets token 0. Returns the numbers of decoded and read ones."""
    plan = scheduler.plan()
    for span in plan.reading:
        scheduler.was_read(span.sequence, span.count)
    for text in plan.decoding:
        scheduler.was_read(text, 1)
        text.add(TokenScore(0))
    scheduler.check()
    return [text.request_id for text in plan.decoding], [
        (s.sequence.request_id, s.first, s.count) for s in plan.reading
    ]


def test_decoding_comes_first_and_prompts_share_what_is_left():
    scheduler = scheduler_of(pages=20)
    add(scheduler, 0, 4)
    assert step(scheduler) == ([], [(0, 0, 3)])
    add(scheduler, 1, 12, head=50)
    assert step(scheduler) == ([0], [(1, 0, 4)])  # five are left, of which four fill pages
    assert step(scheduler) == ([0], [(1, 4, 4)])
    assert step(scheduler) == ([0], [(1, 8, 3)])
    assert step(scheduler) == ([0, 1], [])


def test_a_request_of_better_priority_takes_the_row_of_another():
    scheduler = scheduler_of(rows=1)
    add(scheduler, 0, 2, priority=1)
    step(scheduler)
    add(scheduler, 1, 2, priority=1, head=50)
    assert step(scheduler) == ([0], [])  # the same priority waits
    add(scheduler, 2, 2, priority=0, head=60)
    assert step(scheduler) == ([], [(2, 0, 1)])
    assert scheduler.preemptions == 1
    assert [text.request_id for text in scheduler.waiting] == [1, 0]


def test_the_last_request_gives_way_when_pages_run_out():
    scheduler = scheduler_of(pages=4, shares=False)
    texts = [add(scheduler, 0, 3), add(scheduler, 1, 3, head=50)]
    for _ in range(4):
        step(scheduler)
    assert scheduler.preemptions == 1
    assert texts[1].row is None
    assert texts[1].num_read == 0
    assert texts[0].row is not None


def test_what_cannot_fit_yet_waits():
    scheduler = scheduler_of(pages=4)
    add(scheduler, 0, 6)
    add(scheduler, 1, 4, head=50)
    assert step(scheduler) == ([], [(0, 0, 5)])
    assert len(scheduler.waiting) == 1


def test_one_request_reads_a_shared_page_and_the_other_takes_it():
    scheduler = scheduler_of(pages=20, budget=20)
    add(scheduler, 0, 8)
    other = add(scheduler, 1, 8)
    assert step(scheduler) == ([], [(0, 0, 7)])
    assert step(scheduler) == ([0], [(1, 6, 1)])
    assert scheduler.prefix_tokens == 6
    assert scheduler.pools[0].references[other.pages[0][0]] == 2


def test_a_text_that_is_known_as_a_whole_decodes_at_once():
    scheduler = scheduler_of(pages=20, budget=20)
    first = add(scheduler, 0, 8)
    step(scheduler)
    step(scheduler)
    scheduler.remove(first)
    add(scheduler, 1, 7)
    assert step(scheduler) == ([1], [])


def test_a_text_shares_the_pages_before_its_first_score():
    scheduler = scheduler_of(pages=20, rows=3, budget=20)
    first = add(scheduler, 0, 9)
    step(scheduler)
    scheduler.remove(first)
    for number, place in enumerate((5, 6, 7), start=1):  # the token before it is read
        add(scheduler, number, 9, num_prompt_logprobs=0, first_prompt_logprob=place)
    assert step(scheduler) == ([], [(1, 4, 4), (2, 4, 4), (3, 6, 2)])
    assert scheduler.prefix_tokens == 4 + 4 + 6


def test_guesses_take_the_pages_that_are_free_and_no_others():
    scheduler = scheduler_of(pages=4, shares=False)
    texts = [add(scheduler, 0, 3), add(scheduler, 1, 2, head=50)]
    step(scheduler)
    assert scheduler.lengthen(texts[0], 1) == 1
    assert scheduler.lengthen(texts[0], 4) == 3  # in three pages; the fourth is that of the other text
    assert scheduler.pools[0].available == 0
    assert scheduler.lengthen(texts[1], 3) == 0
    assert scheduler.preemptions == 0


def test_steps_end_with_the_first_text_if_others_wait():
    scheduler = scheduler_of(pages=20)
    texts = [add(scheduler, 0, 3), add(scheduler, 1, 3, head=50)]
    step(scheduler)
    texts[0].budget = 3
    scheduler.plan()
    assert scheduler.steps(texts, 8) == [3, 8]
    assert [len(each.pages[0]) for each in texts] == [3, 5]
    add(scheduler, 2, 3, head=60)
    assert scheduler.steps(texts, 8) == [3, 3]
    assert scheduler.steps(texts, 1) == [1, 1]


def test_steps_end_with_the_pages():
    scheduler = scheduler_of(pages=4, shares=False)
    texts = [add(scheduler, 0, 3), add(scheduler, 1, 2, head=50)]
    step(scheduler)
    assert scheduler.steps(texts, 8) == [1, 1]  # the second has no page for a third token
    assert scheduler.preemptions == 0


def test_pages_of_tokens_that_are_on_the_device_are_found_later():
    scheduler = scheduler_of(pages=20)
    text = add(scheduler, 0, 4)
    step(scheduler)
    scheduler.plan()
    scheduler.steps([text], 4)
    scheduler.was_read(text, 4)  # those at 3 to 6, of which 4 to 6 are not known
    text.tokens += [ON_DEVICE] * 4
    assert (text.num_read, text.num_known, text.num_published) == (7, 4, 2)
    text.tokens[4:] = [0] * 4
    scheduler.was_read(text, 0)
    assert text.num_published == 3


def test_pages_before_a_window_are_dropped_and_found_again():
    scheduler = scheduler_of(pages=20, budget=20, reaches=(None, 3))
    text = add(scheduler, 0, 9)
    step(scheduler)
    assert NO_PAGE not in text.pages[0]
    assert text.pages[1] == [NO_PAGE] * 3 + text.pages[1][3:]  # the query at 8 sees 6, 7 and 8
    add(scheduler, 1, 9)
    assert step(scheduler) == ([0, 1], [])
    assert pages_of_window(3, 20, 2) == 13


def test_sources_are_read_when_a_request_gets_a_row_and_again_after_it_gave_way():
    scheduler = scheduler_of(rows=3, pages=20)
    texts = [add(scheduler, i, 3, head=10 * i, source=(1,) * size) for i, size in enumerate((4, 2, 1))]
    plan = scheduler.plan()
    assert plan.sources == texts[:2]  # six tokens are the budget; the third waits, and nothing else is read
    assert (plan.decoding, plan.reading) == ([], [])
    assert step(scheduler) == ([], [(0, 0, 2), (1, 0, 2), (2, 0, 1)])  # one token of six is the third's source
    assert texts[2].source_read
    assert step(scheduler) == ([0, 1], [(2, 1, 1)])
    scheduler.give_way(texts[0])
    assert not texts[0].source_read
    assert scheduler.plan().sources == [texts[0]]


def test_a_source_longer_than_the_budget_is_read_alone():
    scheduler = scheduler_of(rows=2)
    texts = [add(scheduler, i, 1, source=(1,) * 9) for i in range(2)]
    assert [scheduler.plan().sources for _ in range(3)] == [[texts[0]], [texts[1]], []]
