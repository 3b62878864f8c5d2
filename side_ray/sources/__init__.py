"""Sources of training images: one module per format behind `base.Source`, opened by `pools`."""
