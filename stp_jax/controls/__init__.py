"""The two things that a user directs: the camera and the animation time."""
