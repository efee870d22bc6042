"""What measures a pre-trained encoder: a rule for each stage that takes one (`mto.names.STAGES`).

finetune_encoder, linear_probe   ImageNet-1K with labels: top1, top5 in percent
knn_vote                         the vote of the nearest training images: top1, top5 in percent
ade20k_upernet, coco_maskrcnn    transfer: UPerNet on ADE20K, mIoU; Mask R-CNN on COCO, box_ap and mask_ap; in percent

Needs: the stage's dataset, and the encoder of the same run, seed and epoch; none for a network from scratch, epoch 0.
Makes: <results>/<stage>/<step>/metrics.json, and history.jsonl where the stage trains.
"""

for _stage in measuring_encoders():

    rule:
        name:
            STAGES[_stage].rule
        input:
            data=f"<results>/data/{STAGES[_stage].dataset}/manifest.json",
            encoder=needs.encoder_of,
        output:
            **made_by(_stage),
        log:
            f"<logs>/{_stage}/<step>.log",
        conda:
            "../envs/mto.yaml"
        threads: needs.hardware(_stage)["cpus_per_task"]
        resources:
            **needs.hardware(_stage),
            stage=_stage,
        params:
            job=needs.job(_stage),
            out=subpath(output.metrics, parent=True),
        message:
            STAGES[_stage].does
        shell:
            # Read when the job runs, after the loop: of the loop's variable it would see the last value alone.
            "python -m mto {resources.stage} --job {params.job:q} --inputs data={input.data} encoder={input.encoder} "
            + ON_HARDWARE
