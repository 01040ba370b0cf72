# Checkpoints of what Claude Code does to a directory.
{ self }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.programs.agentfs;
  program = lib.getExe' cfg.package "agentfs";
  isDeclared = config.programs.claude-code.enable;

  # The hooks that `agentfs install-hooks` writes, which a test of its compares with this file.
  hooks = lib.mapAttrs (
    _:
    map (group: group // { hooks = map (hook: hook // { command = "${program} hook"; }) group.hooks; })
  ) (lib.importJSON ../src/bin/agentfs/hooks.json);
in
{
  options.programs.agentfs = {
    enable = lib.mkEnableOption "agentfs, checkpoints of working directories";

    package = lib.mkOption {
      type = lib.types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalMD "the package of this flake";
      description = "The package that has {command}`agentfs`.";
    };

    claudeCodeHooks = lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = ''
        Whether Claude Code makes a checkpoint at every tool call, in directories that
        {command}`agentfs init` was run in.

        The hooks are put into {option}`programs.claude-code.settings` where that module is enabled.
        Elsewhere {command}`agentfs install-hooks` adds them to the settings file that is there;
        {command}`agentfs install-hooks --remove` takes them out when they are not wanted any more.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      (lib.hm.assertions.assertPlatform "programs.agentfs" pkgs lib.platforms.linux)
    ];

    home.packages = [ cfg.package ];

    programs.claude-code = lib.mkIf (cfg.claudeCodeHooks && isDeclared) {
      settings = { inherit hooks; };
    };

    # Found by the name that the next generation has too.
    home.activation.agentfsHooks = lib.mkIf (cfg.claudeCodeHooks && !isDeclared) (
      lib.hm.dag.entryAfter [ "installPackages" ] ''
        PATH="${config.home.profileDirectory}/bin:$PATH" run ${program} install-hooks --user
      ''
    );
  };
}
