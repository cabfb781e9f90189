from stp_jax.compile_for.command import main

if __name__ == "__main__":
    main()
