"""The connection plans of the published networks, row by row, and the plan as data."""

import dataclasses
import pickle

import pytest

from mmsparx.models import SparXMamba, StagePlan

STAGE_1 = """\
2 layers
  . 0
  . 1"""

STAGE_2 = """\
2 layers, S=1, M=all
  . 0
  G 1 <- input 0"""

STAGE_4 = """\
2 layers, S=1, M=all
  G 0 <- input
  G 1 <- 0"""

PUBLISHED = {
    'tiny': (
        STAGE_1,
        STAGE_2,
        """\
7 layers, S=2, M=3
  G 0 <- input
  . 1
  G 2 <- 1 0
  . 3
  G 4 <- 3 0 2
  . 5
  G 6 <- 5 0 2 4""",
        STAGE_4,
    ),
    'small': (
        STAGE_1,
        STAGE_2,
        """\
17 layers, S=3, M=3
  . 0
  G 1 <- input 0
  . 2
  . 3
  G 4 <- 2 3 1
  . 5
  . 6
  G 7 <- 5 6 1 4
  . 8
  . 9
  G 10 <- 8 9 1 4 7
  . 11
  . 12
  G 13 <- 11 12 4 7 10
  . 14
  . 15
  G 16 <- 14 15 7 10 13""",
        STAGE_4,
    ),
    'base': (
        STAGE_1,
        STAGE_2,
        """\
21 layers, S=3, M=3
  . 0
  . 1
  G 2 <- input 0 1
  . 3
  . 4
  G 5 <- 3 4 2
  . 6
  . 7
  G 8 <- 6 7 2 5
  . 9
  . 10
  G 11 <- 9 10 2 5 8
  . 12
  . 13
  G 14 <- 12 13 5 8 11
  . 15
  . 16
  G 17 <- 15 16 8 11 14
  . 18
  . 19
  G 20 <- 18 19 11 14 17""",
        """\
3 layers, S=1, M=all
  . 0
  . 1
  G 2 <- input 0 1""",
    ),
}


class TestPublished:
    @pytest.mark.parametrize('arch', PUBLISHED)
    @pytest.mark.parametrize('stage', range(4))
    def test_printed_rows(self, arch, stage):
        assert str(SparXMamba.ARCHITECTURES[arch].stages[stage]) == PUBLISHED[arch][stage]

    def test_sources_are_numbered_as_the_features(self):
        # Feature 0 is the stage's input, feature i + 1 the output of layer i.
        plan = SparXMamba.ARCHITECTURES['tiny'].stages[2]
        assert plan.ganglia == (0, 2, 4, 6)
        assert [plan.sources(i) for i in range(7)] == [(0,), (), (2, 1), (), (4, 1, 3), (), (6, 1, 3, 5)]


# Stage 3 of SparX-Mamba-T in the paper's ablations, with the stages that belong to it.
VARIANTS = {
    'DGC': (
        StagePlan(7, 2, dense=True),
        """\
7 layers, S=2, dense
  G 0 <- input
  . 1
  G 2 <- input 1 0
  . 3
  G 4 <- input 1 3 0 2
  . 5
  G 6 <- input 1 3 5 0 2 4""",
    ),
    'DGC, stage 4': (StagePlan(2, 1, dense=True), '2 layers, S=1, dense\n  G 0 <- input\n  G 1 <- input 0'),
    'DSN': (
        StagePlan(4, 1),
        '4 layers, S=1, M=all\n  G 0 <- input\n  G 1 <- 0\n  G 2 <- 0 1\n  G 3 <- 0 1 2',
    ),
    'S=1, M=3': (
        StagePlan(7, 1, 3),
        """\
7 layers, S=1, M=3
  G 0 <- input
  G 1 <- 0
  G 2 <- 0 1
  G 3 <- 0 1 2
  G 4 <- 1 2 3
  G 5 <- 2 3 4
  G 6 <- 3 4 5""",
    ),
    'S=1, M=4': (
        StagePlan(7, 1, 4),
        """\
7 layers, S=1, M=4
  G 0 <- input
  G 1 <- 0
  G 2 <- 0 1
  G 3 <- 0 1 2
  G 4 <- 0 1 2 3
  G 5 <- 1 2 3 4
  G 6 <- 2 3 4 5""",
    ),
    'S=3': (
        StagePlan(7, 3, 3),
        '7 layers, S=3, M=3\n  G 0 <- input\n  . 1\n  . 2\n  G 3 <- 1 2 0\n  . 4\n  . 5\n  G 6 <- 4 5 0 3',
    ),
    'S=4': (
        StagePlan(7, 4, 3),
        '7 layers, S=4, M=3\n  . 0\n  . 1\n  G 2 <- input 0 1\n  . 3\n  . 4\n  . 5\n  G 6 <- 3 4 5 2',
    ),
    'M=2': (
        StagePlan(7, 2, 2),
        """\
7 layers, S=2, M=2
  G 0 <- input
  . 1
  G 2 <- 1 0
  . 3
  G 4 <- 3 0 2
  . 5
  G 6 <- 5 2 4""",
    ),
    'M=4 as published': (
        StagePlan(7, 2, 3, input_in_window=True),
        """\
7 layers, S=2, M=3 with the input
  G 0 <- input
  . 1
  G 2 <- 1 input 0
  . 3
  G 4 <- 3 input 0 2
  . 5
  G 6 <- 5 0 2 4""",
    ),
}


class TestVariants:
    @pytest.mark.parametrize('name', VARIANTS)
    def test_printed_rows(self, name):
        plan, rows = VARIANTS[name]
        assert str(plan) == rows

    def test_m_4_is_m_3_in_t(self):
        """The paper's rule makes them equal: its last ganglion layer has three before it."""
        three, four = StagePlan(7, 2, 3), StagePlan(7, 2, 4)
        assert [three.sources(i) for i in range(7)] == [four.sources(i) for i in range(7)]

    @pytest.mark.parametrize('first', [0, 1, 2])
    @pytest.mark.parametrize('stride', [1, 2, 3])
    def test_dense_reads_every_layer_before_it(self, stride, first):
        plan = StagePlan(7, stride, first=first, dense=True)
        assert plan.ganglia == StagePlan(7, stride, first=first).ganglia
        for layer in range(7):
            sources = plan.sources(layer)
            assert sorted(sources) == (list(range(layer + 1)) if layer in plan.ganglia else [])
            kinds = [feature > 0 and 1 + (feature - 1 in plan.ganglia) for feature in sources]
            assert kinds == sorted(kinds)  # the input, normal layers, ganglion layers

    @pytest.mark.parametrize('depth', [1, 2, 5])
    def test_the_input_in_an_unlimited_window_is_dense_for_s_1(self, depth):
        dense, window = StagePlan(depth, 1, dense=True), StagePlan(depth, 1, input_in_window=True)
        assert [dense.sources(i) for i in range(depth)] == [window.sources(i) for i in range(depth)]

    @pytest.mark.parametrize('window', [1, 2, 3, 9, None])
    @pytest.mark.parametrize('stride', [1, 2, 3])
    def test_the_input_takes_a_place_in_the_window(self, stride, window):
        plan, without = StagePlan(9, stride, window, input_in_window=True), StagePlan(9, stride, window)
        for count, layer in enumerate(plan.ganglia):
            far = [0, *(g + 1 for g in plan.ganglia[:count])]
            normal = [j for j in without.sources(layer) if j and j - 1 not in plan.ganglia]
            expected = normal + (far if window is None else far[-window:])
            assert sorted(plan.sources(layer)) == sorted(expected)
            if count:
                assert list(plan.sources(layer)) == expected


class TestPlan:
    @pytest.mark.parametrize(
        ('options', 'ganglia'),
        [
            ({'depth': 7}, ()),
            ({'depth': 7, 'stride': 1}, (0, 1, 2, 3, 4, 5, 6)),
            ({'depth': 7, 'stride': 3}, (0, 3, 6)),
            ({'depth': 7, 'stride': 4}, (2, 6)),
            ({'depth': 7, 'stride': 9}, (6,)),
            ({'depth': 7, 'stride': 2, 'first': 1}, (2, 4, 6)),
            ({'depth': 7, 'stride': 1, 'first': 6}, (6,)),
            ({'depth': 7, 'stride': 1, 'first': 7}, ()),
            ({'depth': 1, 'stride': 1}, (0,)),
        ],
        ids=str,
    )
    def test_ganglia_are_anchored_on_the_last_layer(self, options, ganglia):
        assert StagePlan(**options).ganglia == ganglia

    @pytest.mark.parametrize(
        ('window', 'far'), [(1, (7,)), (2, (5, 7)), (3, (3, 5, 7)), (9, (1, 3, 5, 7)), (None, (1, 3, 5, 7))]
    )
    def test_window(self, window, far):
        assert StagePlan(9, 2, window).sources(8) == (8, *far)

    @pytest.mark.parametrize('first', [0, 1, 2])
    @pytest.mark.parametrize('window', [1, 2, None])
    @pytest.mark.parametrize('stride', [1, 2, 3])
    @pytest.mark.parametrize('depth', [3, 4, 11])
    def test_every_source_is_earlier_and_read_once(self, depth, stride, window, first):
        plan = StagePlan(depth, stride, window, first)
        normal = set(range(depth)) - set(plan.ganglia)
        read = []
        for layer in range(depth):
            sources = plan.sources(layer)
            assert bool(sources) == (layer in plan.ganglia)
            assert len(set(sources)) == len(sources)
            assert all(0 <= feature <= layer for feature in sources)
            read += [feature - 1 for feature in sources if feature - 1 in normal]
        # The last layer is a ganglion layer, so every normal layer is read, by the next one alone.
        assert sorted(read) == sorted(normal)
        assert sum(0 in plan.sources(layer) for layer in range(depth)) == 1

    def test_is_a_value(self):
        plan = StagePlan(7, 2, 3)
        assert plan == StagePlan(depth=7, stride=2, window=3, first=0)
        assert pickle.loads(pickle.dumps(plan)) == plan
        assert hash(plan) == hash(StagePlan(7, 2, 3))
        with pytest.raises(dataclasses.FrozenInstanceError):
            plan.depth = 8

    def test_from_a_config(self):
        plan = StagePlan(7, 2, 3)
        assert StagePlan.of({'depth': 7, 'stride': 2, 'window': 3}) == plan
        assert StagePlan.of(plan) is plan


class TestBadValues:
    @pytest.mark.parametrize('name', ['depth', 'stride', 'window'])
    @pytest.mark.parametrize('value', [0, -1, 1.5, '2'])
    def test_whole_numbers(self, name, value):
        options = {'depth': 7, 'stride': 2, 'window': 3, name: value}
        with pytest.raises(ValueError, match=f'expected {name} to be an integer of at least 1, got {value!r}'):
            StagePlan(**options)

    def test_depth_is_required(self):
        with pytest.raises(ValueError, match='expected depth to be an integer of at least 1, got None'):
            StagePlan(None)

    @pytest.mark.parametrize('first', [-1, 8, 0.5, None])
    def test_first(self, first):
        with pytest.raises(ValueError, match=f'expected first to be an integer from 0 to depth=7, got {first}'):
            StagePlan(7, 2, first=first)

    def test_unknown_option(self):
        with pytest.raises(ValueError, match='unknown option strid; known ones: depth, stride, window, first, d'):
            StagePlan.of({'depth': 7, 'strid': 2})

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'stride': 2, 'window': 3, 'dense': True}, 'reads all layers before it, so window=3 would have no effect'),
            ({'stride': 2, 'input_in_window': True, 'dense': True}, 'input_in_window would have no effect; leave one'),
            ({'dense': True}, 'a stage without stride has none; set stride, or leave dense out'),
            ({'window': 3}, 'a stage without stride has none; set stride, or leave window out'),
            ({'input_in_window': True}, 'a stage without stride has none; set stride, or leave input_in_window out'),
            ({'stride': 2, 'dense': 1}, 'expected dense to be True or False, got 1'),
            ({'stride': 2, 'input_in_window': None}, 'expected input_in_window to be True or False, got None'),
            ({'stride': True}, 'expected stride to be an integer of at least 1, got True'),
        ],
        ids=str,
    )
    def test_options_that_contradict(self, options, message):
        with pytest.raises(ValueError, match=message):
            StagePlan(7, **options)

    @pytest.mark.parametrize('plan', [{}, {'stride': 1}, 7, None], ids=str)
    def test_no_plan(self, plan):
        with pytest.raises(ValueError, match='StagePlan: expected a d'):
            StagePlan.of(plan)
