from input_pipeline.render.grid import main

if __name__ == "__main__":
    main()
