"""A runner's checkpoints match the model, or the run ends before it trains or tests."""

import argparse
import copy
import shlex
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL_ARCH
from helpers.weights import LEARNABLE, assert_same_bits, assert_unchanged, build, published_classifier
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from mmsparx.cli.arguments import add_option_arguments
from mmsparx.engine import StrictLoadHook
from mmsparx.engine.options import apply_options
from mmsparx.models.stage import SparXLayer
from mmsparx.weights import read_checkpoint
from mmsparx.weights.names import SPARX, convert_names


class Model(BaseModel):
    """A classifier with the layout of SparXClassifier."""

    def __init__(self, num_classes=5, **options):
        super().__init__()
        self.backbone = build(out_indices=(3,), output_norm=False, **options)
        self.head = nn.Module()
        self.head.norm = nn.GroupNorm(1, SMALL_ARCH['channels'][3])
        self.head.fc = nn.Linear(SMALL_ARCH['channels'][3], num_classes)

    def forward(self, inputs, mode='tensor'):
        logits = self.head.fc(self.head.norm(self.backbone(torch.stack(inputs))[0]).mean((2, 3)))
        return {'loss': logits.square().mean()} if mode == 'loss' else logits


class Other(BaseModel):
    """A model without a SparX backbone."""

    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, inputs, mode='tensor'):
        return self.layer(inputs)


@pytest.fixture
def make(tmp_path):
    """Makes a runner that trains epochs of two iterations."""

    def make(model=None, hook=None, epochs=1, ema=False, **options):
        for kept in (MessageHub, MMLogger):  # by name, for the life of a process
            kept._instance_dict.clear()
        torch.manual_seed(0)
        data = [{'inputs': torch.randn(3, 33, 33)} for _ in range(4)]
        return Runner(
            model=model or Model(),
            work_dir=str(tmp_path / 'work'),
            train_dataloader=dict(dataset=data, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            custom_hooks=[hook or StrictLoadHook(), *([dict(type='EMAHook', momentum=0.1)] if ema else [])],
            cfg=Config(dict(the_config=f'of {epochs} epochs')),
            experiment_name='x',
            **options,
        )

    return make


def state_of(runner):
    return copy.deepcopy(runner.model.state_dict())


def hooked(model, resume=False):
    """A published state dict after the hook."""
    checkpoint = {'state_dict': published_classifier()}
    StrictLoadHook().after_load_checkpoint(SimpleNamespace(model=model, _resume=resume), checkpoint)
    return checkpoint['state_dict']


class TestLoadFrom:
    def test_published_names(self, make, tmp_path):
        """A flat file, of which mmengine without the hook would load nothing, and a Runner's file."""
        published = published_classifier()
        for i, content in enumerate((published, {'state_dict': published, 'meta': {}}, {'model': published})):
            torch.save(content, tmp_path / f'{i}.pth')
            runner = make()
            runner.load_checkpoint(str(tmp_path / f'{i}.pth'))
            state = runner.model.state_dict()
            assert_same_bits({new: state[k] for k, new in convert_names(state, 'published').items()}, published)

    @pytest.mark.parametrize('name', ['backbone.stem.0.weight', 'head.fc.bias'])
    def test_a_mismatch_ends_the_run(self, name, make, tmp_path):
        state = Model().state_dict()
        del state[name]
        torch.save({'state_dict': state}, tmp_path / 'x.pth')
        runner = make(load_from=str(tmp_path / 'x.pth'))
        before = state_of(runner)
        with pytest.raises(RuntimeError, match=f'1 MISSING in the file: {name}\n.*incomplete'):
            runner.train()
        assert_unchanged(runner.model, before)
        assert not (tmp_path / 'work/epoch_1.pth').exists()
        (log,) = (tmp_path / 'work').glob('*/*.log')
        assert 'backbone.stages.2 ' in log.read_text()  # the table

    @pytest.mark.parametrize('address', ['http://127.0.0.1:9/no.pth', 'mmcls://no', 'no.pth'])
    def test_an_unavailable_file_is_named(self, address, make):
        with pytest.raises(RuntimeError, match=f'the weights {address} are not available: '):
            make(load_from=address).train()

    def test_other_classes(self, make, tmp_path):
        state = Model().state_dict()
        torch.save({'state_dict': state}, tmp_path / 'x.pth')
        with pytest.raises(RuntimeError, match=r"(?s)5 in the file, 7 in the model.*may_differ=\['head\.fc\.\*'\]"):
            make(Model(7)).load_checkpoint(str(tmp_path / 'x.pth'))
        runner = make(Model(7), StrictLoadHook(may_differ='head.fc.*'))
        runner.load_checkpoint(str(tmp_path / 'x.pth'))
        inside = {name.removeprefix('backbone.'): x for name, x in state.items() if name.startswith('backbone.')}
        assert_unchanged(runner.model.backbone, inside)
        assert runner.model.head.fc.weight.shape[0] == 7

    def test_other_models_are_compared_by_their_names_alone(self, make, tmp_path):
        state = {f'module.{name}': x for name, x in Other().state_dict().items()}
        torch.save({'state_dict': state}, tmp_path / 'x.pth')
        runner = make(Other())
        runner.load_checkpoint(str(tmp_path / 'x.pth'))
        assert_unchanged(runner.model, {name.removeprefix('module.'): x for name, x in state.items()})
        with pytest.raises(RuntimeError, match=r'1 of ANOTHER SHAPE: layer\.weight'):
            make(Other(4)).load_checkpoint(str(tmp_path / 'x.pth'))


class TestMessages:
    """The messages have options that a user can copy."""

    @pytest.fixture
    def message(self, make, tmp_path):
        """The message of a runner whose config names the hook, for a state dict."""

        def message(state, model, may_differ=(), method='train', **options):
            torch.save({'state_dict': state}, tmp_path / 'x.pth')
            runner = make(model, StrictLoadHook(may_differ), load_from=str(tmp_path / 'x.pth'), **options)
            hook = dict(type='mmsparx.StrictLoadHook', may_differ=may_differ)
            runner.cfg.custom_hooks = [dict(type='mmsparx.NaNGuardHook'), hook]
            with pytest.raises(RuntimeError) as error:
                getattr(runner, method)()
            return str(error.value)

        return message

    def test_how_a_head_may_differ(self, message):
        said = message(Model().state_dict(), Model(7))
        assert said.endswith("""\
To fine-tune on other classes, let these layers keep their initial values:
  in the config: custom_hooks = [*_base_.custom_hooks, dict(type='mmsparx.StrictLoadHook', may_differ=['head.fc.*'])]
  or with mmsparx train: --may-differ 'head.fc.*'
  or with any tool: --cfg-options 'custom_hooks.1.may_differ=[head.fc.*]'
Nothing was loaded.""")

    def test_how_a_part_may_differ(self, message):
        """The suggested option, which replaces the present one, includes its value."""
        model = Model(7)
        model.aux = nn.Linear(1, 1)
        said = message(Model().state_dict(), model, may_differ='head.fc.*')
        assert "--may-differ 'aux.*'\n" in said
        assert "--cfg-options 'custom_hooks.1.may_differ=[head.fc.*,aux.*]'\n" in said

    def test_the_options_are_taken(self, message, tmp_path):
        said = message(Model().state_dict(), Model(7))
        option = shlex.split(said.partition('--cfg-options ')[2].partition('\n')[0])
        parser = argparse.ArgumentParser()
        add_option_arguments(parser)
        cfg = Config(dict(custom_hooks=[dict(type='mmsparx.NaNGuardHook'), dict(type='mmsparx.StrictLoadHook')]))
        apply_options(cfg, parser.parse_args(['--cfg-options', *option]).cfg_options)
        assert cfg.custom_hooks[1].may_differ == ['head.fc.*']
        hooks = said.partition('in the config: ')[2].partition('\n')[0]
        base, leaf = tmp_path / 'base.py', tmp_path / 'leaf.py'
        base.write_text("custom_hooks = [dict(type='mmsparx.StrictLoadHook')]")
        leaf.write_text(f"_base_ = './base.py'\n{hooks}\n")
        assert [hook.get('may_differ') for hook in Config.fromfile(leaf).custom_hooks] == [None, ['head.fc.*']]

    def test_a_classifier_for_another_task(self, message, tmp_path):
        """The file has the backbone's weights, in our names with the head or flat, or in the published names."""
        model = Model()
        model.neck, model.head = nn.Linear(1, 1), None
        for state in (Model().state_dict(), Model().backbone.state_dict(), published_classifier()):
            said = message(state, model)
            assert (
                "Of the model's parts it holds backbone alone, as the file of a backbone, a classifier or a model of "
                'another task does. To start from it, leave load_from out and give the file to the backbone: '
                f"model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{tmp_path}/x.pth')."
            ) in said
            init_cfg = dict(type='Pretrained', checkpoint=f'{tmp_path}/x.pth')
            build(out_indices=(3,), output_norm=False, init_cfg=init_cfg).init_weights()

    def test_initial_values_are_not_suggested_for_a_test(self, message):
        loader = dict(dataset=[{'inputs': torch.randn(3, 33, 33)}], sampler=dict(type='DefaultSampler', shuffle=False))
        test = dict(
            method='test',
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=dict(type='DumpResults', out_file_path='x.pkl'),
        )
        said = message(Model().state_dict(), Model(7), **test)
        assert said.endswith('7 in the model. Take the config that the file was trained with. Nothing was loaded.')
        model = Model()
        model.neck, model.head = nn.Linear(1, 1), None
        assert 'init_cfg' not in message(Model().state_dict(), model, **test)
        with_more = Model()
        with_more.aux = nn.Linear(1, 1)
        said = message(with_more.state_dict(), Model(), **test)
        assert 'To leave that out:\n' in said
        assert "may_differ=['aux.*']" in said

    def test_a_resume_lets_nothing_differ(self):
        model = Model(7)
        with pytest.raises(RuntimeError, match=r'7 in the model\. Nothing was loaded'):
            hooked(model, resume=True)


class TestSeveralHooks:
    """A hook of the base config and one of the user act as one."""

    @pytest.mark.parametrize('swapped', [False, True])
    def test_may_differ_is_all_of_theirs(self, swapped, make, tmp_path):
        torch.save({'state_dict': Model().state_dict()}, tmp_path / 'x.pth')
        model = Model(7)
        model.aux = nn.Linear(1, 1)
        hooks = [StrictLoadHook(), StrictLoadHook(['head.fc.*']), StrictLoadHook('aux.*')]
        runner = make(model, hooks[0])
        for hook in hooks[1:]:
            runner.register_hook(hook, 'HIGHEST' if swapped else None)
        runner.load_checkpoint(str(tmp_path / 'x.pth'))
        state = read_checkpoint(tmp_path / 'x.pth')['state_dict']
        assert_unchanged(runner.model.backbone, {name.removeprefix('backbone.'): x for name, x in state.items()})

    def test_all_else_must_match(self, make, tmp_path):
        torch.save({'state_dict': Model().state_dict()}, tmp_path / 'x.pth')
        model = Model(7)
        model.aux = nn.Linear(1, 1)
        runner = make(model)
        runner.register_hook(StrictLoadHook('head.fc.*'))
        with pytest.raises(RuntimeError, match='2 MISSING in the file: aux'):
            runner.load_checkpoint(str(tmp_path / 'x.pth'))


class TestResume:
    """A resume after the first of two epochs: `path` is its checkpoint, `expected` the state after the second one."""

    @pytest.fixture
    def ema(self, request):
        """True with an averaged copy."""
        return getattr(request, 'param', False)

    @pytest.fixture
    def path(self, ema, make, tmp_path):
        make(ema=ema, epochs=2).train()
        return tmp_path / 'work/epoch_1.pth'

    @pytest.fixture
    def resume(self, path, ema, make):
        def resume(change=None, **options):
            checkpoint = read_checkpoint(path)
            if change:
                change(checkpoint)
            torch.save(checkpoint, path)
            runner = make(ema=ema, epochs=2, resume=True, load_from=str(path), **options)
            runner.train()
            return read_checkpoint(path.with_name('epoch_2.pth'))

        return resume

    @pytest.mark.parametrize('ema', [False, True], indirect=True)
    def test_goes_on_with_every_copy(self, path, resume, ema):
        expected = read_checkpoint(path.with_name('epoch_2.pth'))

        def publish(checkpoint):
            checkpoint['state_dict'] = _published(checkpoint['state_dict'], 'backbone.')
            if ema:
                checkpoint['ema_state_dict'] = _published(checkpoint['ema_state_dict'], 'module.backbone.')

        for change in (None, publish):
            resumed = resume(change)
            for key in ('state_dict', 'ema_state_dict')[: 1 + ema]:
                assert_same_bits(resumed[key], expected[key])
        assert ema == ('ema_state_dict' in expected)

    def test_everything_must_match(self, resume):
        def drop(checkpoint):
            del checkpoint['state_dict']['head.fc.bias']

        with pytest.raises(RuntimeError, match=r'1 MISSING in the file: head\.fc\.bias'):
            resume(drop, hook=StrictLoadHook(may_differ='head.*'))

    def test_nothing_is_between_tasks(self):
        """A flat file may lack entries elsewhere."""
        model = Model(aggregator=LEARNABLE)
        assert len(hooked(model)) == len(model.state_dict()) - 4
        with pytest.raises(RuntimeError, match=r'4 MISSING in the file: .*in_proj\.scale'):
            hooked(model, resume=True)

    @pytest.mark.parametrize('ema', [True], indirect=True)
    def test_the_other_copy_must_match_too(self, resume):
        def drop(checkpoint):
            del checkpoint['ema_state_dict']['module.head.fc.bias']

        with pytest.raises(RuntimeError, match=r'1 MISSING in the file: head\.fc\.bias'):
            resume(drop)

    def test_the_config_that_is_stored_is_this_runs(self, resume):
        def replace(checkpoint):
            assert 'of 2 epochs' in checkpoint['message_hub']['runtime_info']['cfg']
            checkpoint['message_hub']['runtime_info']['cfg'] = 'raise ValueError'

        text = resume(replace)['message_hub']['runtime_info']['cfg']
        assert Config.fromstring(text, '.py').the_config == 'of 2 epochs'


class TestWrappers:
    def test_data_parallel_and_augmentation_at_test_time(self):
        class TTAModel(BaseTTAModel):
            def merge_preds(self, data_samples_list):
                return data_samples_list

        model = Model()
        for wrapped in (nn.DataParallel(model), TTAModel(module=model), nn.DataParallel(TTAModel(module=model))):
            assert hooked(wrapped).keys() == model.state_dict().keys()
        with pytest.raises(RuntimeError, match='of other classes'):
            hooked(nn.DataParallel(Model(7)))

    @pytest.mark.filterwarnings('ignore:When using ``NO_SHARD``')
    def test_fully_sharded(self, tmp_path):
        torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
        try:
            policy = ModuleWrapPolicy({SparXLayer})
            wrap = partial(FullyShardedDataParallel, auto_wrap_policy=policy, device_id=torch.device('cpu'))
            assert hooked(wrap(Model())).keys() == Model().state_dict().keys()
            with pytest.raises(RuntimeError, match='of other classes: 5 in the file, 7 in the model'):
                hooked(wrap(Model(7)))
        finally:
            torch.distributed.destroy_process_group()


def test_it_is_found_by_name():
    hook = HOOKS.build({'type': 'mmsparx.StrictLoadHook', 'may_differ': ['head.fc.*']})
    assert isinstance(hook, StrictLoadHook)
    assert hook.may_differ == ['head.fc.*']


def _published(state, prefix):
    """The state dict with published names under a prefix."""
    return {
        prefix + SPARX.to_published(name.removeprefix(prefix)) if name.startswith(prefix) else name: x
        for name, x in state.items()
    }
