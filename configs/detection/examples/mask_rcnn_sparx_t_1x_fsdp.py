# configs/detection/mask_rcnn_sparx_t_1x.py with weights, gradients and the optimizer's state sharded over the
# processes, for networks that do not fit into one GPU: tools/dist_train.sh <this file> 8. Without gradient clipping, as
# here, training is the same as with DDP; clip_grad would only see each process's shard.
_base_ = '../mask_rcnn_sparx_t_1x.py'

runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmsparx.engine.fsdp.FSDPStrategy',  # mmengine's strategy cannot resume with torch 2.1 and later
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        auto_wrap_policy='mmsparx.engine.fsdp.layer_policy',  # a shard per SparX layer, one for the rest
        use_orig_params=True,  # paramwise_cfg goes by the names of parameters
    ),
    state_dict_cfg='full',  # one checkpoint, which loads without FSDP as well
)
