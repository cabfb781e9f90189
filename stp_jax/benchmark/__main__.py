from stp_jax.benchmark.command import main

if __name__ == "__main__":
    main()
