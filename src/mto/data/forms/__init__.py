"""ImageNet in every form in which people have it: one file a form, and one list of images for all of them."""
