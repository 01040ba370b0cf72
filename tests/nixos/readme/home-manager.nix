{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    home-manager = {
      url = "github:nix-community/home-manager/release-26.05";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    claude-cellar.url = "git+file:///home/alice/src/claude-cellar";
  };

  outputs =
    {
      nixpkgs,
      home-manager,
      claude-cellar,
      ...
    }:
    {
      homeConfigurations.alice = home-manager.lib.homeManagerConfiguration {
        pkgs = nixpkgs.legacyPackages.x86_64-linux;
        modules = [
          claude-cellar.homeManagerModules.default
          {
            home = {
              username = "alice";
              homeDirectory = "/home/alice";
              stateVersion = "26.05";
            };
            services.claude-cellar = {
              enable = true;
              trashDays = 30;
            };
            # Checkpoints of what Claude Code changes.
            programs.agentfs = {
              enable = true;
              claudeCodeHooks = true;
            };
          }
        ];
      };
    };
}
