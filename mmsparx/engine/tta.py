"""Test-time augmentation: one prediction from several sizes and flips of an image."""

from mmengine.config import Config


def apply_tta(cfg: Config, protocol: str) -> None:
    """Let the test of a config average predictions over sizes and flips, by one of its protocols.

    Args:
        cfg: Config with `tta_model`, the wrapper that merges predictions, and `tta_pipelines`, test pipelines by the
            protocol's name that end in `TestTimeAug`; configs/segmentation/_base_/datasets/ade20k.py has two. The
            config is changed in place.
        protocol: Name in `tta_pipelines`.

    Raises:
        ValueError: the model predicts masks of instances, which mmdet does not merge; the config has no such
            protocol, or no `tta_model`.
    """
    if 'mask_head' in {*cfg.model, *(cfg.model.get('roi_head') or ())}:
        raise ValueError(
            '--tta: the model predicts masks of instances, and mmdet merges boxes alone. Test without --tta'
        )
    pipelines = cfg.get('tta_pipelines') or {}
    if protocol not in pipelines or 'tta_model' not in cfg:
        known = ', '.join(pipelines) or 'none'
        raise ValueError(
            f'--tta {protocol}: expected tta_model=dict(...) and tta_pipelines=dict({protocol}=[...]) in the config; '
            f'known protocols: {known}'
        )
    cfg.test_dataloader.dataset.pipeline = pipelines[protocol]
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
