# Settings that the variants of SparX-Mamba-T share; the files beside this one have the differences. The paper trains
# them like T and gives no drop path; T's is used.
_base_ = '../../_base_/sparx_mamba_t.py'

backbone = dict(drop_path_rate=0.2)
init_cfg = None
no_pretrained_weights = 'ImageNet weights of the variants of SparX-Mamba-T are not published'

# T's plan.
stages = [
    dict(depth=2),
    dict(depth=2, stride=1, first=1),
    dict(depth=7, stride=2, window=3),
    dict(depth=2, stride=1),
]
