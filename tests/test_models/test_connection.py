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
        with pytest.raises(ValueError, match=f'expected {name} to be a whole number of at least 1, got {value!r}'):
            StagePlan(**options)

    def test_depth_is_required(self):
        with pytest.raises(ValueError, match='expected depth to be a whole number of at least 1, got None'):
            StagePlan(None)

    @pytest.mark.parametrize('first', [-1, 8, 0.5, None])
    def test_first(self, first):
        with pytest.raises(ValueError, match=f'expected first to be a whole number from 0 to depth=7, got {first}'):
            StagePlan(7, 2, first=first)

    def test_unknown_option(self):
        with pytest.raises(ValueError, match='unknown option strid; known ones: depth, stride, window, first'):
            StagePlan.of({'depth': 7, 'strid': 2})
