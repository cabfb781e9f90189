"""The parts of `launch/train_demo.py`: one run of the demo model, from new scenes to weights."""
