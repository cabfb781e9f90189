"""From a video and what a user asks for to the same scene from new cameras, at new animation times."""
