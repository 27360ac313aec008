-- Orthanc sends each study to the PSMA node once no image has come for StableAge seconds, and again when more
-- images have come since. Only images are sent: the node keeps results that come back, and does nothing with them.
-- It is a job, and the study is marked as sent only when the job has ended well. One that failed since the node was
-- away is seen at /jobs, and sent again by /jobs/ID/resubmit; Orthanc keeps JobsHistorySize ended jobs, 10 unless told.
--
-- In orthanc.json: "LuaScripts": ["/etc/orthanc/send_to_psma_node.lua"], "JobsHistorySize": 10000 and
-- "DicomModalities": {"psma-node": ["PSMA_NODE", "10.0.0.7", 11112]}.

local NODE = 'psma-node'
local MODALITIES = {PT = true, NM = true, CT = true}
local SENT = '4211' -- our own metadata on the study: how many images of it the node has (Orthanc: 1024 to 65535)

local function imageSeries(studyId)
   local images, found = 0, {}
   for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. studyId .. '/series'))) do
      if MODALITIES[series['MainDicomTags']['Modality']] then
         images = images + #series['Instances']
         table.insert(found, series['ID'])
      end
   end
   return images, found
end

local function alreadySent(studyId)
   for _, name in ipairs(ParseJson(RestApiGet('/studies/' .. studyId .. '/metadata'))) do
      if name == SENT then
         return tonumber(RestApiGet('/studies/' .. studyId .. '/metadata/' .. SENT)) or 0
      end
   end
   return 0
end

function OnStableStudy(studyId, tags, metadata)
   local images, series = imageSeries(studyId)
   if images > alreadySent(studyId) then
      RestApiPost('/modalities/' .. NODE .. '/store', DumpJson({Resources = series, Synchronous = false}, true))
   end
end

-- All is read from the job itself, which outlives a restart of Orthanc as no variable here would.
function OnJobSuccess(jobId)
   local job = ParseJson(RestApiGet('/jobs/' .. jobId))
   local node = ParseJson(RestApiGet('/modalities/' .. NODE .. '/configuration'))
   local content = job['Content']
   if job['Type'] ~= 'DicomModalityStore' or content['RemoteAet'] ~= node['AET'] then
      return
   end
   local first = (content['ParentResources'] or {})[1]
   local series = first and RestApiGet('/series/' .. first) -- nil: someone sent a study or an image by hand
   if series then
      local studyId = ParseJson(series)['ParentStudy']
      local images = tonumber(content['InstancesCount'])
      if images > alreadySent(studyId) then
         RestApiPut('/studies/' .. studyId .. '/metadata/' .. SENT, string.format('%d', images))
      end
   end
end
