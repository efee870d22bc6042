"""UPerNet through mmsegmentation and Mask R-CNN through mmdetection, on one plain ViT backbone."""
