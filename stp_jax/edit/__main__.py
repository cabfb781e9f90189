from stp_jax.errors import run_command

if __name__ == "__main__":
    run_command("stp_jax.edit.command")
