"""First on the path, this is as if PyTorch were not there: tensorboardX would import it, for two seconds."""

raise ImportError("the processes of these tests have no PyTorch")
